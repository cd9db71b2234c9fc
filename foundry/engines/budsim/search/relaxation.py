"""Infeasible questions: which target stands in the way, and how little of it would do."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from foundry.engines.budsim.configuration import Floats
from foundry.engines.budsim.request import Targets
from foundry.engines.budsim.search.archive import Pool
from foundry.engines.budsim.search.evaluation import Evaluator, Scores
from foundry.engines.budsim.search.evolution import evolve
from foundry.engines.budsim.search.genome import Space
from foundry.engines.budsim.search.targets import Name, limits, shortfall


def relaxations(scores: Scores, targets: Targets) -> dict[Name, float]:
    """Per target the nearest limit that some row meets while it keeps all others.

    Targets that no row misses alone are left out: relaxing them changes nothing.
    """
    found = limits(targets)
    missed = _missed(scores, found)
    nearest: dict[Name, float] = {}
    for at, name in enumerate(found):
        others = scores.unstable + np.delete(missed, at, axis=1).sum(axis=1)
        bounds = scores.bounds[others <= 0.0, at]
        if len(bounds):
            best = bounds.max() if name == "min_throughput_tps" else bounds.min()
            nearest[name] = float(best)
    return nearest


def _missed(scores: Scores, found: dict[Name, float]) -> Floats:
    """(N, targets), shares of the limits."""
    columns = [
        shortfall(name, limit, scores.bounds[:, at])
        for at, (name, limit) in enumerate(found.items())
    ]
    return np.column_stack([*columns, np.zeros((len(scores.unstable), 0))])


def searched(evaluator: Evaluator, spaces: Sequence[Space], *, seed: str) -> dict[Name, float]:
    """`relaxations` where there are too many configurations to try all: one evolution per target,
    which keeps the others and then misses this one least."""
    targets = evaluator.request.targets
    nearest: dict[Name, float] = {}
    for name in limits(targets):
        archives = evolve(replace(evaluator, yielding=name), spaces, seed=f"{seed}/{name}")
        found = relaxations(Pool.of(archives).scores, targets)
        if name in found:
            nearest[name] = found[name]
    return nearest


def binding(scores: Scores, row: int, targets: Targets, relaxed: dict[Name, float]) -> Name | None:
    """The target with the least slack at a row; None without targets.

    Of an infeasible question: among the targets that would make it feasible alone, the one that
    has to move least, as a share of itself.
    """
    found = limits(targets)
    values = dict(zip(found, scores.bounds[row].tolist(), strict=True))
    if relaxed:
        moves = {name: -slack(name, found[name], value) for name, value in relaxed.items()}
        return min(moves, key=lambda name: moves[name])
    slacks = {name: slack(name, limit, values[name]) for name, limit in found.items()}
    return min(slacks, key=lambda name: slacks[name], default=None)


def slack(name: Name, limit: float, bound: float) -> float:
    """Distance of the judged value to its limit as a share of it; negative: missed."""
    distance = bound - limit if name == "min_throughput_tps" else limit - bound
    return distance / limit
