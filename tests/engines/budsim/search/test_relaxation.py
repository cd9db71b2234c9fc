"""Relaxations against hand values, and the search for them against the oracle."""

import numpy as np
import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.request import ClusterSpec, Request, Targets
from foundry.engines.budsim.search.archive import Pool
from foundry.engines.budsim.search.evaluation import Evaluator, Scores
from foundry.engines.budsim.search.exhaustive import exhaust
from foundry.engines.budsim.search.genome import islands, space
from foundry.engines.budsim.search.relaxation import binding, relaxations, searched, slack
from tests.fakes.models import LLAMA_8B
from tests.fakes.predictor import FakePredictor
from tests.fakes.questions import CHAT, H100, L4

TARGETS = Targets(max_ttft_ms=100, min_throughput_tps=1000, max_cost_per_hour=10)
# TTFT, throughput, $/h of four configurations; the last one's queue is not stable.
SCORES = Scores(
    objectives=np.ones((4, 3)),
    violation=np.array([2.0, 0.5, 3.0, 0.9]),
    bounds=np.array([[300.0, 1000, 10], [100, 500, 10], [400, 2000, 5], [100, 1000, 10]]),
    unstable=np.array([0.0, 0.0, 0.0, 0.9]),
)


def test_each_relaxation_keeps_all_other_targets() -> None:
    """Cost is met by all, so relaxing it saves nothing; the unstable row saves nobody."""
    assert relaxations(SCORES, TARGETS) == {"max_ttft_ms": 300.0, "min_throughput_tps": 500.0}


def test_the_binding_target_has_to_move_least() -> None:
    relaxed = relaxations(SCORES, TARGETS)
    assert binding(SCORES, 1, TARGETS, relaxed) == "min_throughput_tps"
    assert binding(SCORES, 2, TARGETS, {}) == "max_ttft_ms"


def test_slack_is_a_share_of_the_limit() -> None:
    assert slack("max_ttft_ms", 100.0, 80.0) == pytest.approx(0.2)
    assert slack("min_throughput_tps", 100.0, 80.0) == pytest.approx(-0.2)


def test_searched_relaxations_equal_those_of_all_configurations() -> None:
    targets = Targets(max_ttft_ms=20.0, max_cost_per_hour=2.0)
    request = Request(CHAT, ClusterSpec((H100, L4)), targets)
    evaluator = Evaluator(LLAMA_8B, request, Catalogue.shipped(), FakePredictor())
    spaces = [space(evaluator.ground(), request, one, 2048) for one in islands(request)]
    true = relaxations(Pool.of(exhaust(evaluator, spaces)).scores, targets)
    found = searched(evaluator, spaces, seed="a")
    assert found == pytest.approx(true, rel=0.01)
    assert set(true) == {"max_ttft_ms", "max_cost_per_hour"}
