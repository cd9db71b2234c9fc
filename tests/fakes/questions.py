"""Clusters and random questions for the search."""

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.request import (
    KV_DTYPES,
    QUANTIZATIONS,
    ClusterSpec,
    Lengths,
    NodeGroup,
    Policy,
    Request,
    Targets,
    Workload,
)

H100 = NodeGroup("nvidia-h100-80gb", 8, 2)
A100 = NodeGroup("nvidia-a100-80gb", 8, 2)
L40S = NodeGroup("nvidia-l40s-48gb", 8, 2)
L4 = NodeGroup("nvidia-l4-24gb", 4, 2)
MIXED = ClusterSpec((H100, A100, L40S, L4))

CHAT = Workload(Lengths.of(1000), Lengths.of(200), users=64)


def random_model(rng: np.random.Generator) -> ModelSpec:
    """A dense or sparse decoder of 0.1 to 400 billion parameters."""
    heads = int(rng.choice([12, 14, 16, 28, 32, 40, 48, 64, 96]))
    kv_heads = int(rng.choice([k for k in (1, 2, 4, 8, heads) if heads % k == 0]))
    parameters = float(np.exp(rng.uniform(np.log(1e8), np.log(4e11))))
    layers = int(rng.integers(8, 100))
    return ModelSpec(
        layers=layers,
        hidden=heads * 128,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=128,
        kv_width=2.0 * kv_heads * 128,
        ffn=heads * 400,
        vocabulary=128256,
        parameters=parameters,
        active_parameters=parameters * float(rng.choice([1.0, 0.2])),
        full_layers=layers,
        latent=bool(rng.random() < 0.1),
        max_length=int(2 ** rng.integers(13, 18)),
        weight_format=str(rng.choice(["bf16", "bf16", "fp16", "fp8"])),  # type: ignore[arg-type]
    )


def random_request(rng: np.random.Generator, gpus: tuple[str, ...]) -> Request:
    """One to three node groups and any policy; targets are met by some."""
    chosen = rng.choice(len(gpus), size=int(rng.integers(1, 4)), replace=False)
    groups = tuple(
        NodeGroup(gpus[index], int(rng.choice([1, 2, 4, 8])), int(rng.integers(1, 5)))
        for index in chosen.tolist()
    )
    closed = rng.random() < 0.6
    workload = Workload(
        input=Lengths.of(float(rng.integers(50, 3000))),
        output=Lengths.of(float(rng.integers(20, 800))),
        users=float(2 ** rng.integers(0, 9)) if closed else None,
        rate=None if closed else float(2.0 ** rng.integers(-3, 5)),
    )
    targets = Targets(
        max_ttft_ms=float(rng.uniform(50, 5000)) if rng.random() < 0.5 else None,
        max_tpot_ms=float(rng.uniform(5, 200)) if rng.random() < 0.5 else None,
        max_cost_per_hour=float(rng.uniform(2, 60)) if rng.random() < 0.3 else None,
        percentile=str(rng.choice(["p50", "p95", "p99"])),  # type: ignore[arg-type]
    )
    policy = Policy(
        quantizations=QUANTIZATIONS[: int(rng.integers(1, 6))],
        kv_dtypes=KV_DTYPES[: int(rng.integers(1, 3))],
        min_replicas=int(rng.integers(1, 3)),
        memory_headroom=float(rng.choice([0.1, 0.15, 0.2])),
    )
    return Request(workload, ClusterSpec(groups), targets, policy)
