"""A deployment that is searched again, with its targets and its present load."""

from pathlib import Path
from uuid import UUID

import pytest

from foundry.infra.database import Database
from foundry.serving.endpoints.domain import EndpointSnapshot
from foundry.serving.endpoints.service import list_unsettled_endpoints
from foundry.serving.outcomes.advising import SearchingAdvisor
from foundry.serving.outcomes.domain import Forecast, Load
from foundry.serving.recommendations.running import Searches
from tests.control.client import Control, running_control, with_models
from tests.serving.endpoints.cluster import run_endpoints
from tests.serving.outcomes.windows import FakeForecasts
from tests.serving.recommendations.questions import (
    CLUSTER,
    ENDPOINT_CONFIG,
    WORKLOAD,
    FakeSearcher,
    answer,
)

pytest.importorskip("foundry.engines.budsim.predictor")
pytestmark = pytest.mark.postgres
LOAD = Load(4.0, 128.0, 128.0, 128.0, 64.0, 64.0, 64.0)


class PricedForecasts(FakeForecasts):
    async def forecast(self, endpoint_id: UUID, revision: int, load: Load) -> Forecast | None:
        found = await super().forecast(endpoint_id, revision, load)
        assert found is not None
        found.predicted["ttft_p95_ms"] = (500.0, 600.0, 700.0)
        return Forecast(
            **{name: getattr(found, name) for name in found.__slots__ if name != "cost_per_hour"},
            cost_per_hour=10.0,
        )


async def running(control: Control, **config: object) -> EndpointSnapshot:
    answered = await control.client.post("/endpoints", json={"model": "smol"})
    endpoint_id = answered.json()["id"]
    if config:
        put = await control.client.put(f"/endpoints/{endpoint_id}/config", json=config)
        assert put.status_code in (200, 202), put.text
        found = put.json()["recommendation_id"]
        await control.client.get(f"/budsim/recommendations/{found}?wait=10")
    deployed = await control.client.post(f"/endpoints/{endpoint_id}/deploy")
    assert deployed.status_code == 202, deployed.text
    await run_endpoints(control.database)
    (snapshot,) = await list_unsettled_endpoints(control.database)
    return snapshot


async def test_it_compares_the_deployment_with_a_new_search(
    database: Database, tmp_path: Path
) -> None:
    found = answer()
    found["choice"] = {"prediction": {"cost_per_hour": 8.0}}
    searcher = FakeSearcher(found)
    async with running_control(database, tmp_path / "o", searcher=searcher) as control:
        await with_models(control, tmp_path)
        endpoint = await running(
            control,
            performance_targets={"max_ttft_ms": 500, "max_tpot_ms": 100},
            workload=WORKLOAD,
            cluster=CLUSTER,
        )
        searches = Searches(database, control.objects, searcher=searcher)
        advisor = SearchingAdvisor(database, searches, PricedForecasts())
        proposal = await advisor.propose(endpoint, LOAD)
    assert proposal is not None
    assert proposal.saving == pytest.approx(0.2)
    assert proposal.violations == ("max_ttft_ms",)
    assert proposal.recommendation["configuration"] == ENDPOINT_CONFIG
    asked = searcher.asked[-1].request
    assert (asked.workload.users, asked.workload.input.mean) == (4.0, 130.0)
    assert asked.targets.max_ttft_ms == 500


async def test_a_deployment_without_targets_is_left_alone(
    database: Database, tmp_path: Path
) -> None:
    searcher = FakeSearcher()
    async with running_control(database, tmp_path / "o", searcher=searcher) as control:
        await with_models(control, tmp_path)
        endpoint = await running(control)
        searches = Searches(database, control.objects, searcher=searcher)
        advisor = SearchingAdvisor(database, searches, PricedForecasts())
        assert await advisor.propose(endpoint, LOAD) is None
    assert searcher.asked == []
