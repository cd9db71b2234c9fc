"""What a configuration must obey: rules that the search repairs to and that manual input must meet.

Each rule names the field that breaks it, why, and what would do. Columns have shape (N,).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Bools, Configurations, Ints
from foundry.engines.budsim.memory import MemoryMap, memory_map
from foundry.engines.budsim.request import (
    KV_DTYPES,
    QUANTIZATIONS,
    RUNTIMES,
    ClusterSpec,
    NodeGroup,
)
from foundry.engines.budsim.search.support import kv_problem, weights_problem


@dataclass(frozen=True, slots=True)
class Broken:
    """One rule over N configurations.

    Attributes:
        field: of `Configuration`.
        where: (N,), which configurations break it.
        reason: of one of them, with what would do.
    """

    field: str
    where: Bools
    reason: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Ground:
    """What configurations stand on. `tokens`: mean of a sequence, input and output."""

    spec: ModelSpec
    catalogue: Catalogue
    cluster: ClusterSpec
    tokens: float


def placements(groups: Sequence[NodeGroup], tp: Ints, pp: Ints) -> Ints:
    """Replicas that groups of one accelerator hold at most.

    The ranks of one stage stay in one node; stages may lie in different nodes. Free accelerators
    are taken to be packed: whole nodes first, the rest in one more.
    """
    stages = np.zeros_like(tp)
    for group in groups:
        whole, rest = divmod(group.available_gpus, group.gpus_per_node)
        stages += whole * (group.gpus_per_node // tp) + rest // tp
    return stages // pp


def broken(ground: Ground, configurations: Configurations) -> list[Broken]:
    """All rules, in the order in which a user should read them."""
    return [
        *_supported(ground, configurations),
        *_sharded(ground.spec, configurations),
        *_bounded(ground.spec, configurations),
        *_placed(ground, configurations),
        *_fitting(ground, configurations),
    ]


def valid(ground: Ground, configurations: Configurations) -> Bools:
    """Which configurations obey every rule; (N,)."""
    good: Bools = ~np.logical_or.reduce([rule.where for rule in broken(ground, configurations)])
    return good


def _supported(ground: Ground, rows: Configurations) -> Iterator[Broken]:
    """The engine runs this model on this accelerator in this format."""
    gpus = [ground.catalogue.gpu(gpu) for gpu in rows.gpus]
    shape = (len(gpus), len(RUNTIMES), len(QUANTIZATIONS))
    problems = {
        at: weights_problem(ground.spec, gpus[at[0]], RUNTIMES[at[1]], QUANTIZATIONS[at[2]])
        for at in np.ndindex(shape)
    }
    where = np.stack([rows.gpu, rows.runtime, rows.quantization])
    for field in ("runtime", "quantization"):
        table = np.zeros(shape, dtype=bool)
        for at, problem in problems.items():
            table[at] = problem is not None and problem[0] == field

        def reason(row: int) -> str:
            return (problems[tuple(where[:, row].tolist())] or ("", ""))[1]

        yield Broken(field, table[tuple(where)], reason)
    kinds = {(i, j): kv_problem(g, k) for i, g in enumerate(gpus) for j, k in enumerate(KV_DTYPES)}
    refused = np.asarray([[kinds[i, j] is not None for j in (0, 1)] for i in range(len(gpus))])
    yield Broken(
        "kv_cache_dtype",
        refused[rows.gpu, rows.kv_dtype],
        lambda row: kinds[int(rows.gpu[row]), int(rows.kv_dtype[row])] or "",
    )


def find_model_faults(spec: ModelSpec, rows: Configurations) -> list[tuple[int, str, str]]:
    """Why a model cannot be served as configurations say, on whatever accelerators: it is not
    divided so, or its context is shorter. Their row, the field and the reason."""
    return [
        (int(row), broken.field, broken.reason(int(row)))
        for broken in (*_sharded(spec, rows), _overlong(spec, rows))
        for row in np.flatnonzero(broken.where)
    ]


def _sharded(spec: ModelSpec, rows: Configurations) -> Iterator[Broken]:
    """Heads divide over ranks, layers over stages."""
    tp = np.maximum(rows.tp, 1)
    yield Broken(
        "tensor_parallel_size",
        (rows.tp < 1) | (spec.heads % tp != 0),
        lambda row: (
            f"{rows.tp[row]} does not divide the {spec.heads} attention heads; "
            f"use one of {_divisors(spec.heads)}"
        ),
    )
    # Fewer KV heads than ranks: each head is replicated over a whole number of ranks.
    uneven = (spec.kv_heads % tp != 0) & (tp % spec.kv_heads != 0)
    yield Broken(
        "tensor_parallel_size",
        uneven & (spec.heads % tp == 0) & np.asarray(not spec.latent),
        lambda row: (
            f"{spec.kv_heads} KV heads neither divide over {rows.tp[row]} ranks nor "
            "replicate evenly; use a divisor or a multiple"
        ),
    )
    yield Broken(
        "pipeline_parallel_size",
        (rows.pp < 1) | (rows.pp > spec.layers),
        lambda row: f"{rows.pp[row]} is outside 1 to {spec.layers}, the model's layers",
    )


def _divisors(heads: int) -> str:
    return ", ".join(str(size) for size in (1, 2, 4, 8, 16) if heads % size == 0)


def _overlong(spec: ModelSpec, rows: Configurations) -> Broken:
    """The model was made for a context that holds the longest request."""
    return Broken(
        "max_model_len",
        (rows.max_model_len < 1) | (rows.max_model_len > spec.max_length),
        lambda row: (
            f"{rows.max_model_len[row]} is outside 1 to {spec.max_length}, the model's own length"
        ),
    )


def _bounded(spec: ModelSpec, rows: Configurations) -> Iterator[Broken]:
    """Numbers that engines refuse."""
    yield _overlong(spec, rows)
    utilization = rows.gpu_memory_utilization
    yield Broken(
        "gpu_memory_utilization",
        ~((utilization >= 0.1) & (utilization <= 0.98)),
        lambda row: f"{utilization[row]:g} is outside 0.1 to 0.98; use 0.8 to 0.9",
    )
    yield Broken(
        "max_num_seqs", rows.max_num_seqs < 1, lambda row: "at least one sequence must run"
    )
    yield Broken(
        "max_num_batched_tokens",
        rows.max_num_batched_tokens < rows.max_num_seqs,
        lambda row: (
            f"{rows.max_num_batched_tokens[row]} is below max_num_seqs, "
            f"{rows.max_num_seqs[row]}: every running sequence needs a token per step"
        ),
    )


def _placed(ground: Ground, rows: Configurations) -> Iterator[Broken]:
    """The replicas have somewhere to run."""
    owned = [[one for one in ground.cluster.groups if one.gpu == gpu] for gpu in rows.gpus]
    widest = [max(group.gpus_per_node for group in groups) for groups in owned]
    per_node = np.asarray(widest)[rows.gpu]
    yield Broken(
        "tensor_parallel_size",
        rows.tp > per_node,
        lambda row: f"{rows.tp[row]} ranks need one node, which has {per_node[row]} accelerators",
    )
    room = np.zeros(len(rows), dtype=np.int64)
    for index, groups in enumerate(owned):
        here = rows.gpu == index
        tp, pp = np.maximum(rows.tp[here], 1), np.maximum(rows.pp[here], 1)
        room[here] = placements(groups, tp, pp)

    def reason(row: int) -> str:
        index = int(rows.gpu[row])
        free = sum(group.available_gpus for group in owned[index])
        return (
            f"{rows.replicas[row]} replicas of {rows.tp[row] * rows.pp[row]} accelerators do not "
            f"fit: the {free} free {rows.gpus[index]} hold {room[row]}"
        )

    yield Broken("replicas", (rows.replicas < 1) | (rows.replicas > room), reason)


def _fitting(ground: Ground, rows: Configurations) -> Iterator[Broken]:
    """Weights, one longest sequence and all running sequences fit into the memory."""
    longest, typical = memories(ground, rows)
    fits = longest.slots >= 1

    def too_large(row: int) -> str:
        term, missing = shortage(longest, row)
        return f"does not fit: {missing / 1e9:.1f} GB too little per accelerator, for {term}"

    yield Broken("memory", ~fits, too_large)
    yield Broken(
        "max_num_seqs",
        fits & (rows.max_num_seqs > np.maximum(typical.slots, 1)),
        lambda row: (
            f"{rows.max_num_seqs[row]} sequences of {ground.tokens:.0f} tokens do not fit "
            f"into the KV cache; use at most {max(int(typical.slots[row]), 1)}"
        ),
    )


def memories(ground: Ground, rows: Configurations) -> tuple[MemoryMap, MemoryMap]:
    """Memory for sequences of `max_model_len` and for those of the workload."""
    longest = rows.max_model_len.astype(np.float64)
    typical = np.minimum(np.full(len(rows), ground.tokens), longest)
    return (
        memory_map(ground.spec, ground.catalogue, rows, longest),
        memory_map(ground.spec, ground.catalogue, rows, typical),
    )


def shortage(memory: MemoryMap, row: int) -> tuple[str, float]:
    """Of a row that does not fit: the first term beyond the limit, and bytes missing in all."""
    total, over = 0.0, ""
    terms = ("weights", "activations", "communication", "kv_per_sequence")
    names = ("weights", "activations", "communication", "the KV cache of one sequence")
    for term, name in zip(terms, names, strict=True):
        total += float(getattr(memory, term)[row])
        if not over and total > float(memory.limit[row]):
            over = name
    return over or names[-1], max(total - float(memory.limit[row]), 0.0)
