"""The evolution against the oracle, and against itself."""

import random
from dataclasses import replace

import numpy as np
import pytest
from deap import tools

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.request import ClusterSpec, Policy, Request
from foundry.engines.budsim.search.archive import Archive, Pool, feasible_front
from foundry.engines.budsim.search.evaluation import Evaluator
from foundry.engines.budsim.search.evolution import (
    GENERATIONS,
    Individual,
    corners,
    evolve,
)
from foundry.engines.budsim.search.exhaustive import exhaust
from foundry.engines.budsim.search.front import hypervolume_ratio, non_dominated
from foundry.engines.budsim.search.genome import Space, islands, space
from tests.fakes.models import LLAMA_8B
from tests.fakes.predictor import FakePredictor
from tests.fakes.questions import A100, CHAT, H100, L4, L40S, MIXED, random_model, random_request

CATALOGUE = Catalogue.shipped()
GPUS = tuple(group.gpu for group in MIXED.groups)


def _spaces(evaluator: Evaluator) -> list[Space]:
    request = evaluator.request
    return [space(evaluator.ground(), request, one, 4096) for one in islands(request)]


def _evaluator(*groups: object, policy: Policy | None = None) -> Evaluator:
    request = Request(CHAT, ClusterSpec(groups), policy=policy or Policy())  # type: ignore[arg-type]
    return Evaluator(LLAMA_8B, request, CATALOGUE, FakePredictor())


def _same(one: Archive, other: Archive) -> bool:
    return bool(
        np.array_equal(one.genomes, other.genomes)
        and np.array_equal(one.scores.objectives, other.scores.objectives)
    )


def _compare(count: int) -> tuple[list[float], list[float]]:
    """Hypervolume and cost ratios, evolution over oracle, of feasible random questions."""
    rng = np.random.default_rng(11)
    volumes: list[float] = []
    costs: list[float] = []
    while len(volumes) < count:
        request, spec = random_request(rng, GPUS), random_model(rng)
        evaluator = Evaluator(spec, request, CATALOGUE, FakePredictor())
        spaces = _spaces(evaluator)
        if all(one.empty for one in spaces):
            continue
        oracle = exhaust(evaluator, spaces)
        if not len(Pool.of(oracle).feasible):
            continue
        true = feasible_front(oracle)
        found = feasible_front(evolve(evaluator, spaces, seed=str(len(volumes))))
        volumes.append(hypervolume_ratio(found, true) if len(found) else 0.0)
        costs.append(float(found[:, 0].min() / true[:, 0].min()) if len(found) else np.inf)
    return volumes, costs


def test_the_evolution_finds_the_front_of_the_oracle() -> None:
    volumes, costs = _compare(8)
    assert min(volumes) >= 0.99
    assert max(costs) <= 1.01


@pytest.mark.bench
def test_a_hundred_random_questions() -> None:
    volumes, costs = _compare(100)
    assert min(volumes) >= 0.99
    assert max(costs) <= 1.01


def test_one_prediction_per_generation_and_no_configuration_twice() -> None:
    evaluator = _evaluator(H100, A100, L40S, L4)
    archives = evolve(evaluator, _spaces(evaluator), seed="a")
    predictor = evaluator.predictor
    assert isinstance(predictor, FakePredictor)
    assert predictor.calls <= GENERATIONS + 1
    assert predictor.rows == sum(len(archive) for archive in archives)
    for archive in archives:
        assert len(np.unique(archive.space.keys(archive.genomes))) == len(archive)


def test_the_seed_decides_and_the_global_state_does_not() -> None:
    evaluator = _evaluator(H100)
    spaces = _spaces(evaluator)
    random.seed(1)
    state = random.getstate()
    first = evolve(evaluator, spaces, seed="a")[0]
    assert random.getstate() == state
    random.seed(2)
    assert _same(first, evolve(evaluator, spaces, seed="a")[0])
    assert not _same(first, evolve(evaluator, spaces, seed="b")[0])


def test_an_island_alone_finds_what_it_finds_among_others() -> None:
    evaluator = _evaluator(H100, L4)
    spaces = _spaces(evaluator)
    together = evolve(evaluator, spaces, seed="a")
    for at, one in enumerate(spaces):
        assert _same(together[at], evolve(evaluator, [one], seed="a")[0])


def test_corners_span_sequences_and_replicas() -> None:
    room = _spaces(_evaluator(H100))[0]
    rows = room.decode(corners(room))
    single = (rows.tp == 1) & (rows.pp == 1)
    pairs = set(
        zip(rows.max_num_seqs[single].tolist(), rows.replicas[single].tolist(), strict=True)
    )
    most = int(rows.max_num_seqs[single].max())
    assert pairs == {(8, 1), (8, 16), (most, 1), (most, 16)}
    assert set(rows.gpu_memory_utilization.tolist()) == {0.9}


def test_the_fast_sort_selects_what_the_textbook_one_does() -> None:
    points = np.random.default_rng(3).random((150, 3))
    fast = tools.selNSGA2([Individual(i, p.tolist()) for i, p in enumerate(points)], 96, nd="log")
    slow = tools.selNSGA2([Individual(i, p.tolist()) for i, p in enumerate(points)], 96)
    assert {one.row for one in fast} == {one.row for one in slow}
    assert set(non_dominated(points).tolist()) <= {one.row for one in fast}


def test_a_yielding_target_is_missed_least_while_the_others_hold() -> None:
    evaluator = _evaluator(H100, L4)
    targets = replace(evaluator.request.targets, max_ttft_ms=0.5, max_cost_per_hour=1.0)
    evaluator = replace(evaluator, request=replace(evaluator.request, targets=targets))
    spaces = _spaces(evaluator)
    true = Pool.of(exhaust(evaluator, spaces)).scores
    affordable = true.bounds[:, 1] <= 1.0
    archives = evolve(replace(evaluator, yielding="max_ttft_ms"), spaces, seed="a")
    found = Pool.of(archives).scores
    reached = found.bounds[found.bounds[:, 1] <= 1.0, 0].min()
    assert reached == pytest.approx(true.bounds[affordable, 0].min(), rel=0.01)
