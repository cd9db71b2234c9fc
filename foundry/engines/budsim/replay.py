"""From a configuration to a run of the simulator.

The step is the prior's roofline (`physics.step`) of one replica, without arrays, since a replay
asks for it a million times; one factor brings it to what the predictor says of the same load.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from foundry.engines.budsim.architecture import WEIGHT_BYTES, ModelSpec
from foundry.engines.budsim.batching import EngineLimits
from foundry.engines.budsim.catalogue import Catalogue, Gpu
from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.explanation import Explains
from foundry.engines.budsim.memory import memory_map
from foundry.engines.budsim.physics import ALPHA_S, kv_per_token
from foundry.engines.budsim.points import ENGINES, Points, model_columns
from foundry.engines.budsim.request import Method, Workload
from foundry.engines.budsim.search.support import weight_format
from foundry.engines.budsim.simulator import SimulatedRun, simulate
from foundry.engines.budsim.traces import Trace
from foundry.errors import InvalidRequest

# Largest share of experts that a token can miss without a logarithm of zero.
_NEVER = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class RooflineStep:
    """Seconds per step, by coefficients; implements `batching.StepTime`.

    A step of a pipeline is one pass of the whole batch, in as many micro-batches as stages.

    Attributes:
        token: arithmetic of one token, s.
        pair: attention of one token to one other, s.
        shared: reading the weights that every step needs, s.
        routed: reading all routed experts, s.
        missed: log of the chance that one token leaves a given expert alone, ÷ stages.
        kv: reading one token of KV cache, s.
        comm, comm_token: of a step with any token, and of each token, s.
        scale: from the roofline to what engines measure.
    """

    token: float
    pair: float
    shared: float
    routed: float
    missed: float
    kv: float
    comm: float
    comm_token: float
    scale: float

    @classmethod
    def of(cls, points: Points, scale: float = 1.0) -> Self:
        """Of the first operating point; attention data parallelism is not replayed."""
        at = {name: float(getattr(points, name)[0]) for name in points.__slots__}
        tp, stages = at["tp"], at["pp"]
        share = 1.0 / (tp * stages * at["flops"])
        width = at["full_layers"] * at["heads"] * at["head_dim"]
        visited = at["experts_per_token"] / max(at["experts"], 1.0)
        read = at["wb"] / tp / at["bandwidth"]
        message = at["hidden"] * 2.0 / max(at["link"], 1.0)
        reduces = 2.0 * at["layers"] if tp > 1 else 0.0
        hops = stages if stages > 1 else 0.0
        return cls(
            token=2.0 * at["active"] * share,
            pair=4.0 * width * share,
            shared=read * (at["parameters"] - at["expert_parameters"]),
            routed=read * at["expert_parameters"],
            missed=math.log1p(-min(visited, _NEVER)) / stages,
            kv=float(kv_per_token(points)[0]) / at["bandwidth"],
            comm=(reduces + hops) * ALPHA_S,
            comm_token=message * (reduces * 2.0 * (tp - 1.0) / tp + hops) / stages,
            scale=scale,
        )

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decodes: float, decode_context: float
    ) -> float:
        tokens = prefill_tokens + decodes
        compute = self.token * tokens + self.pair * (prefill_context + decode_context)
        weights = self.shared - self.routed * math.expm1(tokens * self.missed)
        memory = weights + self.kv * decode_context
        return self.scale * (max(compute, memory) + self.comm + self.comm_token * tokens)


def replay(
    spec: ModelSpec,
    configuration: Configuration,
    trace: Trace,
    workload: Workload,
    *,
    catalogue: Catalogue,
    predictor: Explains,
    method: Method = "REGRESSOR",
) -> SimulatedRun:
    """Serve a trace as the configuration would.

    Args:
        trace: of a closed workload only the lengths count.
        workload: of the trace: scales the step to the predictor, and says whether it is closed.

    Raises:
        InvalidRequest: the model does not fit there.
    """
    rows = Configurations.of([configuration])
    found = predictor.predict(spec, rows, workload, catalogue=catalogue, method=method).at(0)
    terms = predictor.breakdown(spec, configuration, workload, catalogue=catalogue).tpot_ms
    physics = sum(value for name, value in terms.items() if name != "overhead")
    scale = found.tpot_ms.point / physics if physics and math.isfinite(physics) else 1.0
    return simulate(
        trace,
        RooflineStep.of(points_of(spec, configuration, catalogue.gpu(configuration.gpu)), scale),
        limits_of(spec, configuration, catalogue),
        users=None if workload.users is None else max(1, round(workload.users)),
        prefix_share=workload.prefix_share,
    )


def points_of(spec: ModelSpec, configuration: Configuration, gpu: Gpu) -> Points:
    """One operating point, without load: batch and lengths are the simulator's own."""
    weights = weight_format(spec, configuration.quantization)
    flops16 = gpu.flops("bf16") or gpu.flops("fp16")
    own = gpu.flops(weights) if weights in ("fp8", "int8") else 0.0
    values = {
        "memory": gpu.memory_gb * 1e9,
        "bandwidth": gpu.bandwidth_gbps * gpu.attained_bandwidth * 1e9,
        "flops": (own or flops16) * gpu.attained_flops,
        "flops16": flops16 * gpu.attained_flops,
        "link": gpu.link_gbps * 1e9,
        "nvlink": float(gpu.link == "nvlink"),
        "native": float(bool(own) or weights in ("bf16", "fp16")),
        "tp": configuration.tensor_parallel_size,
        "pp": configuration.pipeline_parallel_size,
        "wb": WEIGHT_BYTES[weights],
        "kb": 1.0 if configuration.kv_cache_dtype == "fp8" else 2.0,
        "chunk": configuration.max_num_batched_tokens,
        "engine": ENGINES.index(configuration.runtime),
    }
    columns = {name: np.ones(1) for name in ("dp", "ep", "batch", "input", "output")}
    columns |= {"cached": np.zeros(1), "month": np.zeros(1)}
    columns |= {name: np.full(1, float(value)) for name, value in values.items()}
    return Points(**columns, **model_columns(spec, 1))


def limits_of(spec: ModelSpec, configuration: Configuration, catalogue: Catalogue) -> EngineLimits:
    """What bounds the batches. Raises InvalidRequest: the model does not fit."""
    length = min(configuration.max_model_len, spec.max_length)
    memory = memory_map(
        spec, catalogue, Configurations.of([configuration]), np.full(1, float(length))
    )
    tokens = int(memory.free[0] / memory.kv_per_sequence[0] * length)
    if tokens < length:
        raise InvalidRequest(
            f"one sequence of {length} tokens does not fit on {configuration.gpu}: shard over "
            "more accelerators, or lower max_model_len"
        )
    sequences = configuration.max_num_seqs
    return EngineLimits(
        max_num_seqs=sequences,
        max_num_batched_tokens=max(configuration.max_num_batched_tokens, sequences),
        kv_tokens=tokens,
        replicas=configuration.replicas,
        max_model_len=length,
    )
