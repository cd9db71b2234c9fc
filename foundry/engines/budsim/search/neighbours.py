"""Why not a little different: configurations one gene step away, predicted anew."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foundry.engines.budsim.configuration import Configuration, Configurations, Floats, Ints
from foundry.engines.budsim.prediction import Prediction
from foundry.engines.budsim.request import KV_DTYPES, QUANTIZATIONS, Request
from foundry.engines.budsim.search.evaluation import Evaluator
from foundry.engines.budsim.search.genome import CELL, GENES, SEQUENCES, Island, Space, space
from foundry.engines.budsim.search.relaxation import slack
from foundry.engines.budsim.search.targets import Name, judge, limits, objectives

# Field of `Configuration` that each gene sets.
FIELDS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "quantization",
    "kv_cache_dtype",
    "gpu_memory_utilization",
    "max_num_batched_tokens",
    "max_num_seqs",
    "replicas",
)
_COLUMNS = {"cost": 0, "ttft": 1, "throughput": 2}
# Predictions closer than this are the same: the step changes nothing that is predicted.
_SAME = 1e-6

Why = Literal["misses a target", "overloaded", "worse objective"]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A rejected configuration.

    Attributes:
        field, value: the one change.
        missed: the target that it misses most, by `amount` of its limit; None: it meets all.
        amount: for a worse objective its ratio to the choice, less 1.
        cost_change: $/10⁶ tokens against the choice, less 1; negative: cheaper.
        ttft_change: TTFT p95 against the choice, less 1.
    """

    configuration: Configuration
    prediction: Prediction
    field: str
    value: str
    why: Why
    missed: Name | None
    amount: float
    cost_change: float
    ttft_change: float


def neighbours(
    evaluator: Evaluator, configuration: Configuration, *, count: int = 2
) -> tuple[Neighbour, ...]:
    """The best valid configurations one gene step away, best first. Steps that change no
    objective are left out."""
    island = Island(configuration.gpu, configuration.runtime)
    room = space(evaluator.ground(), evaluator.request, island, configuration.max_model_len)
    if room.empty:
        return ()
    steps = _steps(room, configuration)
    return _judged(evaluator, configuration, room.decode(steps), count) if len(steps) else ()


def _judged(
    evaluator: Evaluator, configuration: Configuration, rows: Configurations, count: int
) -> tuple[Neighbour, ...]:
    predictions = evaluator.predict(rows)
    own = objectives(evaluator.predict(Configurations.of([configuration])))[0]
    points = objectives(predictions)
    judgement = judge(predictions, evaluator.request.targets, evaluator.request.workload)
    order = _order(judgement.violation(), points, evaluator.request)
    # A choice whose queue never ends has no finite objective to compare with.
    with np.errstate(invalid="ignore"):
        change = points / own - 1.0
    changed = ~(np.abs(change) <= _SAME).all(axis=1) & judgement.usable
    found = []
    for row in order[changed[order]][:count].tolist():
        at = rows.at(row)
        field = _difference(at, configuration)
        bounds = {name: float(column[row]) for name, column in judgement.bounds.items()}
        why = _why(bounds, float(judgement.overload[row]), change[row], evaluator.request)
        costs, ttft = change[row, :2].tolist()
        value = f"{getattr(at, field)}"
        found.append(Neighbour(at, predictions.at(row), field, value, *why, costs, ttft))
    return tuple(found)


def _genome(room: Space, configuration: Configuration) -> Ints:
    """The nearest genome of a configuration, which manual ones may miss."""
    values = (
        configuration.tensor_parallel_size,
        configuration.pipeline_parallel_size,
        QUANTIZATIONS.index(configuration.quantization),
        KV_DTYPES.index(configuration.kv_cache_dtype),
        configuration.gpu_memory_utilization,
        configuration.max_num_batched_tokens,
    )
    cell = [
        int(np.abs(alleles - value).argmin())
        for alleles, value in zip(room.alleles, values, strict=True)
    ]
    most = min(configuration.max_num_seqs, SEQUENCES[-1])
    sequences = int(np.searchsorted(np.asarray(SEQUENCES), most))
    return np.asarray([*cell, sequences, configuration.replicas - 1], dtype=np.int64)


def _steps(room: Space, configuration: Configuration) -> Ints:
    """Valid genomes one gene step away. A step to a cell of less room takes what no longer fits
    from sequences and replicas."""
    genome = _genome(room, configuration)
    moves = np.concatenate(
        [np.eye(len(GENES), dtype=np.int64), -np.eye(len(GENES), dtype=np.int64)]
    )
    moved = genome + moves
    inside = ((moved >= 0) & (moved < room.sizes)).all(axis=1)
    moved = moved[inside]
    repaired = room.repair(moved)
    cell_moved = np.abs(moved - genome).argmax(axis=1) < CELL
    kept = (repaired[:, :CELL] == moved[:, :CELL]).all(axis=1)
    steps: Ints = repaired[kept & (cell_moved | (repaired == moved).all(axis=1))]
    return steps


def _order(violation: Floats, points: Floats, request: Request) -> Ints:
    named = [_COLUMNS[name] for name in request.policy.objectives]
    keys = [points[:, column] for column in reversed(named)]
    order: Ints = np.lexsort((*keys, violation))
    return order


def _difference(one: Configuration, other: Configuration) -> str:
    """The first gene that differs."""
    return next((name for name in FIELDS if getattr(one, name) != getattr(other, name)), "replicas")


def _why(
    bounds: dict[Name, float], overload: float, change: Floats, request: Request
) -> tuple[Why, Name | None, float]:
    found = limits(request.targets)
    slacks = {name: slack(name, found[name], bound) for name, bound in bounds.items()}
    worst = min(slacks, key=lambda name: slacks[name], default=None)
    if worst is not None and slacks[worst] < 0.0:
        return "misses a target", worst, -slacks[worst]
    if overload > 0.0:
        return "overloaded", None, overload
    return "worse objective", None, float(change[_COLUMNS[request.policy.objectives[0]]])
