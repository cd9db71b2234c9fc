"""From a question to a recommendation.

`recommend` does all in process. Across processes: `islands` names the parts, `search_island` is a
pure function of the question and one part, `merge` makes the same answer of their archives.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configurations, Floats, Ints
from foundry.engines.budsim.request import Method, Objective, Request
from foundry.engines.budsim.search import exhaustive
from foundry.engines.budsim.search.archive import Archive, Pool, feasible_front
from foundry.engines.budsim.search.evaluation import Evaluator, Predicts, concatenate
from foundry.engines.budsim.search.evolution import evolve
from foundry.engines.budsim.search.front import hypervolume_ratio, non_dominated, spread
from foundry.engines.budsim.search.genome import Island, Space, islands, space
from foundry.engines.budsim.search.pricing import NOMINAL_NOTE, nominal, with_prices
from foundry.engines.budsim.search.recommendation import (
    Choice,
    Point,
    Recommendation,
    Regret,
    Target,
    advise_resources,
    digest,
    note_small_host,
    resources,
)
from foundry.engines.budsim.search.relaxation import binding, relaxations, searched, slack
from foundry.engines.budsim.search.shortage import nearest_shortage, notes
from foundry.engines.budsim.search.targets import Name, limits
from foundry.engines.budsim.search.validation import validate

ALTERNATIVES = 10
# Points of each kind that an answer carries for plots.
PLOTTED = 200
# An infeasible question is worth more predictions than a feasible one.
INFEASIBLE_LIMIT = 200_000

_COLUMNS: dict[Objective, int] = {"cost": 0, "ttft": 1, "throughput": 2}


def recommend(
    spec: ModelSpec,
    request: Request,
    *,
    catalogue: Catalogue,
    predictor: Predicts,
    method: Method | None = None,
) -> Recommendation:
    """The best configuration for a model on a cluster.

    Args:
        method: in place of the request's.

    Raises:
        InvalidRequest: the question has no answer; says what to change.
    """
    if method is not None:
        request = replace(request, method=method)
    asked, request = request, with_prices(request, catalogue)
    length = validate(spec, request, catalogue)
    evaluator = Evaluator(spec, request, catalogue, predictor)
    spaces = [space(evaluator.ground(), request, one, length) for one in islands(request)]
    archives = evolve(evaluator, spaces, seed=digest(spec, request))
    return _noted(_answer(evaluator, archives), asked, catalogue)


def search_island(
    spec: ModelSpec,
    request: Request,
    island: Island,
    *,
    catalogue: Catalogue,
    predictor: Predicts,
) -> Archive:
    """One island's part of `recommend`: what it has tried. Picklable, as are its arguments."""
    request = with_prices(request, catalogue)
    length = validate(spec, request, catalogue)
    evaluator = Evaluator(spec, request, catalogue, predictor)
    room = space(evaluator.ground(), request, island, length)
    return evolve(evaluator, [room], seed=digest(spec, request))[0]


def merge(
    spec: ModelSpec,
    request: Request,
    archives: Sequence[Archive],
    *,
    catalogue: Catalogue,
    predictor: Predicts,
) -> Recommendation:
    """The answer of all islands, in the order of `islands(request)`."""
    evaluator = Evaluator(spec, with_prices(request, catalogue), catalogue, predictor)
    return _noted(_answer(evaluator, archives), request, catalogue)


def _noted(found: Recommendation, asked: Request, catalogue: Catalogue) -> Recommendation:
    if not nominal(asked, catalogue):
        return found
    return replace(found, notes=(*found.notes, NOMINAL_NOTE))


def _answer(evaluator: Evaluator, archives: Sequence[Archive]) -> Recommendation:
    spaces = [archive.space for archive in archives]
    if all(one.empty for one in spaces):
        return _nothing(evaluator, spaces)
    left_out = notes(evaluator, spaces)
    possible = exhaustive.count(spaces)
    evolved = Pool.of(archives)
    limit = exhaustive.LIMIT if len(evolved.feasible) else INFEASIBLE_LIMIT
    if possible > limit:
        return _recommendation(evaluator, evolved, possible, None, left_out)
    oracle = exhaustive.exhaust(evaluator, spaces)
    pool = Pool.of(oracle)
    regret = _regret(archives, oracle, evaluator.request) if len(pool.feasible) else None
    return _recommendation(evaluator, pool, possible, regret, left_out)


def _nothing(evaluator: Evaluator, spaces: Sequence[Space]) -> Recommendation:
    return Recommendation(
        feasible=False,
        choice=None,
        resources=None,
        targets=(),
        binding=None,
        overloaded=False,
        alternatives=(),
        front=(),
        infeasible=(),
        regret=None,
        tried=0,
        possible=0,
        exhaustive=True,
        shortage=nearest_shortage(evaluator, spaces),
        notes=notes(evaluator, spaces),
        digests=_digests(evaluator),
    )


def _digests(evaluator: Evaluator) -> dict[str, str]:
    return {
        "inputs": digest(evaluator.spec, evaluator.request),
        "catalogue": evaluator.catalogue.digest(),
        "model": evaluator.predictor.version,
    }


def _order(request: Request) -> list[int]:
    """Columns of the objectives, the asker's first one first."""
    named = [_COLUMNS[name] for name in request.policy.objectives]
    return [*named, *(column for column in range(3) if column not in named)]


def _regret(evolved: Sequence[Archive], oracle: Sequence[Archive], request: Request) -> Regret:
    true = feasible_front(oracle)
    found = feasible_front(evolved)
    if not len(found):
        return Regret(None, None)
    first = _order(request)[0]
    return Regret(
        cost_ratio=float(found[:, first].min() / true[:, first].min()),
        hypervolume_ratio=hypervolume_ratio(found, true),
    )


def _recommendation(
    evaluator: Evaluator,
    pool: Pool,
    possible: int,
    regret: Regret | None,
    left_out: tuple[str, ...],
) -> Recommendation:
    request = evaluator.request
    feasible = pool.feasible
    best = _best(pool, feasible, request) if len(feasible) else int(pool.scores.violation.argmin())
    front = feasible[non_dominated(pool.scores.objectives[feasible])]
    others = _alternatives(pool, front, best)
    rows = concatenate(pool.configurations(np.asarray([best, *others])))
    choices = _choices(evaluator, rows)
    advised = advise_resources(evaluator.spec, choices[0].configuration)
    given = resources(evaluator.spec, choices[0].configuration, request.cluster)
    relaxed = {} if len(feasible) else _relaxed(evaluator, pool, possible)
    targets = _targets(pool, best, request, relaxed)
    return Recommendation(
        feasible=bool(len(feasible)),
        choice=choices[0],
        resources=given,
        targets=targets,
        binding=binding(pool.scores, best, request.targets, relaxed),
        overloaded=bool(pool.scores.unstable[best] > 0.0),
        alternatives=tuple(choices[1:]),
        front=_points(pool.scores.objectives[_thinned(front)]),
        infeasible=_points(_missing(pool)),
        regret=regret,
        tried=len(pool),
        possible=possible,
        exhaustive=len(pool) == possible,
        shortage=None,
        notes=(*left_out, *note_small_host(advised, given)),
        digests=_digests(evaluator),
    )


def _best(pool: Pool, feasible: Ints, request: Request) -> int:
    """First by the asker's objectives; then fewest accelerators and stages, then the most memory
    left, as far as predictions cannot tell the rest apart."""
    points = pool.scores.objectives[feasible]
    first, second, third = _order(request)
    tied = feasible[points[:, first] <= points[:, first].min() * (1 + 1e-9)]
    rows = concatenate(pool.configurations(tied))
    points = pool.scores.objectives[tied]
    keys = (
        rows.max_num_batched_tokens,
        rows.max_num_seqs,
        rows.gpu_memory_utilization,
        rows.pp,
        rows.tp * rows.pp * rows.replicas,
        points[:, third],
        points[:, second],
    )
    return int(tied[np.lexsort(keys)[0]])


def _alternatives(pool: Pool, front: Ints, best: int) -> list[int]:
    """Rows of the front that differ most from each other and from the best one, cheapest first."""
    points = pool.scores.objectives[front]
    if not len(points):
        return []
    same = np.flatnonzero((points == pool.scores.objectives[best]).all(axis=1))
    start = int(same[0]) if len(same) else int(points[:, 0].argmin())
    rows = front[spread(points, ALTERNATIVES + 1, first=start)].tolist()
    others = [row for row in rows[1 if len(same) else 0 :] if row != best][:ALTERNATIVES]
    return sorted(others, key=lambda row: pool.scores.objectives[row].tolist())


def _choices(evaluator: Evaluator, rows: Configurations) -> list[Choice]:
    predictions = evaluator.predict(rows)
    return [Choice(rows.at(at), predictions.at(at)) for at in range(len(rows))]


def _relaxed(evaluator: Evaluator, pool: Pool, possible: int) -> dict[Name, float]:
    if len(pool) == possible:
        return relaxations(pool.scores, evaluator.request.targets)
    spaces = [archive.space for archive in pool.archives]
    return searched(evaluator, spaces, seed=digest(evaluator.spec, evaluator.request))


def _targets(
    pool: Pool, row: int, request: Request, relaxed: dict[Name, float]
) -> tuple[Target, ...]:
    bounds = pool.scores.bounds[row].tolist()
    return tuple(
        Target(
            name=name,
            percentile=request.targets.percentile,
            limit=limit,
            bound=bound,
            slack=slack(name, limit, bound),
            met=slack(name, limit, bound) >= 0.0,
            relaxed=relaxed.get(name),
        )
        for (name, limit), bound in zip(limits(request.targets).items(), bounds, strict=True)
    )


def _missing(pool: Pool) -> Floats:
    """Objectives of configurations that miss a target, but run."""
    scores = pool.scores
    rows = np.flatnonzero((scores.violation > 0.0) & np.isfinite(scores.objectives).all(axis=1))
    return scores.objectives[_thinned(rows)]


def _thinned(rows: Ints) -> Ints:
    """At most PLOTTED rows, evenly."""
    return rows[:: -(-len(rows) // PLOTTED)] if len(rows) > PLOTTED else rows


def _points(objectives: Floats) -> tuple[Point, ...]:
    """By cost, of equal costs the earliest first token first."""
    rows = sorted(objectives.tolist())
    return tuple(Point(cost, ttft, 1.0 / seconds) for cost, ttft, seconds in rows)
