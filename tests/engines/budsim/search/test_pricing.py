"""Clusters whose accelerators nobody has priced."""

from dataclasses import replace

import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.request import ClusterSpec, NodeGroup, Request, Targets
from foundry.engines.budsim.search.pricing import NOMINAL_NOTE, nominal, with_prices
from foundry.engines.budsim.search.recommend import recommend
from foundry.errors import InvalidRequest
from tests.fakes.models import LLAMA_8B
from tests.fakes.predictor import FakePredictor
from tests.fakes.questions import CHAT, H100

CATALOGUE = Catalogue.shipped()
CPU = NodeGroup("cpu", 1, 4)
BARE = Request(CHAT, ClusterSpec((CPU,)))


def test_a_price_anywhere_counts_everywhere() -> None:
    assert nominal(BARE, CATALOGUE)
    assert [group.price_per_gpu_hour for group in with_prices(BARE, CATALOGUE).cluster.groups] == [
        1.0
    ]
    for cluster in (ClusterSpec((CPU, H100)), ClusterSpec((replace(CPU, price_per_gpu_hour=0.2),))):
        asked = replace(BARE, cluster=cluster)
        assert with_prices(asked, CATALOGUE) is asked
    assert with_prices(BARE, CATALOGUE.with_prices({"cpu": 0.1})) is BARE


def test_without_prices_the_fewest_machines_win_and_the_answer_says_so() -> None:
    catalogue = CATALOGUE.with_gpu(replace(CATALOGUE.gpu("cpu"), memory_gb=64.0))
    asked = replace(BARE, workload=replace(CHAT, users=1.0))
    found = recommend(LLAMA_8B, asked, catalogue=catalogue, predictor=FakePredictor())
    assert found.choice is not None
    assert found.choice.configuration.gpu == "cpu"
    assert found.choice.prediction.cost_per_hour == found.choice.configuration.replicas
    assert found.notes[-1] == NOMINAL_NOTE


@pytest.mark.parametrize("target", ["max_cost_per_hour", "max_cost_per_mtok"])
def test_a_budget_needs_a_price(target: str) -> None:
    asked = replace(BARE, targets=replace(Targets(), **{target: 5.0}))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="set price_per_gpu_hour of cpu"):
        recommend(LLAMA_8B, asked, catalogue=CATALOGUE, predictor=FakePredictor())
