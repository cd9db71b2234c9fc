"""Outcomes, corrections, models and advice through the API, on a real PostgreSQL."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from foundry.engines.budsim.packing import shipped_scores
from foundry.errors import InvalidRequest
from foundry.governance.identity.domain import Role
from foundry.infra.database import Database, utcnow
from foundry.serving.endpoints.domain import EndpointSnapshot
from foundry.serving.outcomes.disturbances import AuditedMoves
from foundry.serving.outcomes.domain import Load
from foundry.serving.outcomes.reviewing import Proposal, review_deployments
from foundry.serving.outcomes.service import Closing, GatewayWindows
from foundry.supervisor.ports import EngineObservation
from tests.control.client import Control, new_key, running_control, with_models
from tests.serving.endpoints.cluster import Cluster, run_endpoints
from tests.serving.outcomes.windows import FakeDisturbances, FakeForecasts, part, statistics
from tests.serving.recommendations.questions import LARGE, WORKLOAD

pytestmark = pytest.mark.postgres


@dataclass
class Site:
    control: Control
    forecasts: FakeForecasts
    endpoint: dict[str, Any]

    @property
    def endpoint_id(self) -> UUID:
        return UUID(self.endpoint["id"])

    async def get(self, path: str, **query: object) -> dict[str, Any]:
        answer = await self.control.client.get(path, params=query)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def post(self, path: str, body: object = None, expected: int = 200) -> dict[str, Any]:
        answer = await self.control.client.post(path, json=body)
        assert answer.status_code == expected, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def close(self, windows: int, *, first: int = 0, **measured: float) -> None:
        """So many finished windows of the endpoint, closed."""
        found = [
            part(
                index,
                statistics(200, **measured),
                endpoint=self.endpoint_id,
                revision=self.endpoint["revision"],
            )
            for index in range(first, first + windows)
        ]
        tenant = self.control.principal.tenant_id
        mine = [replace(one, tenant_id=tenant) for one in found]
        await GatewayWindows(self.control.database).write(mine)
        closing = Closing(
            self.control.database, self.forecasts, FakeDisturbances(), min_requests=200
        )
        last = mine[-1].started_at + timedelta(hours=1)
        assert await closing.close_windows(last) == windows


@pytest.fixture
async def site(database: Database, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_control(database, tmp_path / "objects") as control:
        await with_models(control, tmp_path)
        forecasts = FakeForecasts()
        control.app.state.forecasts = forecasts
        answer = await control.client.post("/endpoints", json={"model": "smol", "deploy": True})
        endpoint = answer.json()
        await run_endpoints(database)
        yield Site(control, forecasts, endpoint)


def load_test(endpoint: str, tpot_ms: float, levels: int = 3) -> dict[str, object]:
    start = utcnow() - timedelta(minutes=1)
    request = {
        "input_tokens": 100,
        "output_tokens": 11,
        "ttft_s": 0.2,
        "duration_s": 0.2 + tpot_ms / 100,
    }
    return {
        "load_test": {
            "endpoint_id": endpoint,
            "levels": [
                {
                    "started_at": (start + timedelta(seconds=i)).isoformat(),
                    "duration_s": 6.0,
                    "requests": [request] * 20,
                }
                for i in range(levels)
            ],
        }
    }


async def test_outcomes_are_listed_by_page(site: Site) -> None:
    await site.close(5)
    first = await site.get("/budsim/outcomes", limit=3)
    assert len(first["data"]) == 3
    rest = await site.get("/budsim/outcomes", limit=3, cursor=first["next_cursor"])
    assert [len(rest["data"]), rest["next_cursor"]] == [2, None]
    found = first["data"][0]
    assert found["endpoint_id"] == site.endpoint["id"]
    assert found["actual"]["tpot_ms"] == pytest.approx(40)
    assert found["predicted"]["tpot_ms"] == pytest.approx([40 / 1.2, 40, 48])
    assert found["covered"] == {"tpot_ms": True, "ttft_p50_ms": True}
    assert first["refit_due"]
    (alarm,) = first["staleness"]
    assert (alarm["gpu"], alarm["stale"], alarm["coverage"]) == ("cpu", False, 1.0)
    mine = await site.get("/budsim/outcomes", endpoint_id=site.endpoint["id"])
    other = await site.get("/budsim/outcomes", endpoint_id=str(uuid4()))
    assert (len(mine["data"]), len(other["data"])) == (5, 0)


async def test_other_tenants_see_no_outcomes(
    site: Site, database: Database, tmp_path: Path
) -> None:
    await site.close(3)
    async with running_control(database, tmp_path / "others") as stranger:
        found = (await stranger.client.get("/budsim/outcomes")).json()
    assert (found["data"], found["staleness"]) == ([], [])


async def test_stale_predictions_are_reported(site: Site) -> None:
    await site.close(8, tpot_ms=120.0)
    (alarm,) = (await site.get("/budsim/outcomes"))["staleness"]
    assert alarm["stale"]
    assert alarm["median_ape"] == pytest.approx(2 / 3)
    assert "above 30%" in alarm["reason"]


async def test_a_load_test_corrects_the_predictions(site: Site) -> None:
    site.forecasts.tpot_ms = 40.0
    found = await site.post("/budsim/recalibrate", load_test(site.endpoint["id"], 68.0))
    assert [row["actual"]["tpot_ms"] for row in found["levels"]] == pytest.approx([68.0] * 3)
    assert [row["covered"]["tpot_ms"] for row in found["levels"]] == [False] * 3
    # Twenty requests of 0.88 s within 6 s.
    assert found["levels"][0]["concurrency"] == pytest.approx(20 * 0.88 / 6)
    factors = {row["target"]: row["factor"] for row in found["biases"] if row["engine_version"]}
    assert factors["tpot_ms"] == pytest.approx(1.7 ** (3 / 3.5), rel=1e-3)
    assert factors["ttft_p50_ms"] == pytest.approx(1.0, abs=0.01)
    (newest, *_) = (await site.get("/budsim/outcomes"))["data"]
    assert newest["source"] == "load_test"
    again = await site.post("/budsim/recalibrate", {})
    assert again["levels"] == []
    assert len(again["biases"]) == len(found["biases"])
    audited = await site.get("/audit", resource_type="bias")
    assert len(audited["data"]) == 2


async def test_sending_a_load_test_twice_counts_once(site: Site) -> None:
    body = load_test(site.endpoint["id"], 68.0)
    await site.post("/budsim/recalibrate", body)
    await site.post("/budsim/recalibrate", body)
    assert len((await site.get("/budsim/outcomes"))["data"]) == 3


async def test_a_client_whose_clock_is_ahead_makes_no_window_of_the_future(site: Site) -> None:
    body: dict[str, Any] = load_test(site.endpoint["id"], 68.0)
    for index, level in enumerate(body["load_test"]["levels"]):
        level["started_at"] = (utcnow() + timedelta(days=400, minutes=index)).isoformat()
    await site.post("/budsim/recalibrate", body)
    rows = (await site.get("/budsim/outcomes"))["data"]
    begun = sorted(datetime.fromisoformat(row["started_at"]) for row in rows)
    assert utcnow() - timedelta(minutes=5) < begun[0] < begun[-1] < utcnow()
    assert begun[-1] - begun[0] == pytest.approx(timedelta(minutes=2), abs=timedelta(seconds=1))


async def test_a_load_test_of_nothing_is_refused(site: Site) -> None:
    answer = await site.post("/budsim/recalibrate", load_test(str(uuid4()), 68.0), 409)
    assert "does not run" in answer["error"]["message"]
    site.forecasts.unknown = True
    answer = await site.post("/budsim/recalibrate", load_test(site.endpoint["id"], 68.0), 404)
    assert "nothing can be predicted" in answer["error"]["message"]
    body: dict[str, Any] = load_test(site.endpoint["id"], 68.0)
    body["load_test"]["levels"][0]["requests"][0]["ttft_s"] = -1
    await site.post("/budsim/recalibrate", body, 400)


async def test_who_may_change_corrections(site: Site) -> None:
    _, key = await new_key(site.control.database, site.control.principal, Role.MEMBER)
    headers = {"authorization": f"Bearer {key}"}
    client = site.control.client
    assert (await client.get("/budsim/outcomes", headers=headers)).status_code == 200
    for path in ("/budsim/recalibrate", "/budsim/models/0/promote"):
        assert (await client.post(path, json={}, headers=headers)).status_code == 403


async def test_an_alarm_lowers_confidence_until_it_clears(site: Site) -> None:
    question = {
        "config": LARGE,
        "workload": WORKLOAD,
        "configurations": [{"gpu": "nvidia-h100-80gb"}],
    }
    site.forecasts.gpu = "nvidia-h100-80gb"
    await site.close(6, tpot_ms=80.0)
    (alarm,) = (await site.get("/budsim/outcomes"))["staleness"]
    assert alarm["stale"]
    found = await site.post("/budsim/predict", question)
    assert [row["confidence"] for row in found["data"]] == ["low"]
    assert "nvidia-h100-80gb with vllm are stale: the median error" in found["notes"][0]
    asked = {key: question[key] for key in ("config", "workload")}
    groups = [{"gpu": "nvidia-h100-80gb", "gpus_per_node": 8}]
    body = {**asked, "cluster": {"groups": groups}}
    answer = await site.post("/budsim/recommendations?wait=30", body, 202)
    assert answer["result"]["choice"]["prediction"]["confidence"] == "low"
    assert "are stale" in answer["result"]["notes"][-1]
    await site.close(12, tpot_ms=40.0, first=6)
    (alarm,) = (await site.get("/budsim/outcomes"))["staleness"]
    assert not alarm["stale"]
    found = await site.post("/budsim/predict", question)
    assert ([row["confidence"] for row in found["data"]], found["notes"]) == (["high"], [])


async def test_the_shipped_model_is_version_0(site: Site) -> None:
    (only,) = (await site.get("/budsim/models"))["data"]
    assert (only["version"], only["status"]) == ("0", "active")
    assert only["cv"] == dict(shipped_scores())


@dataclass
class FakeAdvisor:
    proposal: Proposal | None
    fault: InvalidRequest | None = None
    load: Load | None = None

    async def propose(self, endpoint: EndpointSnapshot, load: Load | None) -> Proposal | None:
        self.load = load
        if self.fault is not None:
            raise self.fault
        return self.proposal


def proposal(
    cost_then: float = 8.0, violations: tuple[str, ...] = (), feasible: bool = True
) -> Proposal:
    return Proposal(violations, feasible, 10.0, cost_then, None, {"configuration": {"replicas": 1}})


async def test_advice_comes_and_goes(site: Site) -> None:
    await site.close(1)
    database, advisor = site.control.database, FakeAdvisor(proposal())
    assert await review_deployments(database, advisor) == 1
    assert advisor.load is not None
    assert advisor.load.concurrency == pytest.approx(2.0)
    (found,) = (await site.get("/budsim/advice"))["data"]
    assert found["saving"] == pytest.approx(0.2)
    assert found["reason"] == "the same targets for 20% less per hour"
    assert found["recommendation"] == {"configuration": {"replicas": 1}}
    failing = FakeAdvisor(None, InvalidRequest("the model is unknown"))
    assert await review_deployments(database, failing) == 0
    assert len((await site.get("/budsim/advice"))["data"]) == 1
    assert await review_deployments(database, FakeAdvisor(proposal(9.5))) == 0
    assert (await site.get("/budsim/advice"))["data"] == []


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (proposal(9.0), "the same targets for 10% less per hour"),
        (proposal(9.1), None),
        (proposal(8.0, feasible=False), None),
        (
            proposal(12.0, ("max_ttft_ms",)),
            "the running configuration is predicted to miss max_ttft_ms",
        ),
        (Proposal((), True, None, 8.0, None, {}), None),
        (Proposal((), True, 0.0, 8.0, None, {}), None),
    ],
)
def test_what_is_worth_a_change(found: Proposal, reason: str | None) -> None:
    assert found.reason() == reason


async def test_the_audit_trail_knows_of_restarts(site: Site) -> None:
    moves, tenant = AuditedMoves(site.control.database), site.control.principal.tenant_id
    now = utcnow()
    hour = timedelta(hours=1)
    assert await moves.was_disturbed(tenant, site.endpoint_id, now - hour, now)
    assert not await moves.was_disturbed(tenant, site.endpoint_id, now, now + hour)
    assert not await moves.was_disturbed(tenant, uuid4(), now - hour, now)
    name = str(site.endpoint["app_name"])
    await Cluster(site.control.database).see(name, EngineObservation("unhealthy"))
    assert await moves.was_disturbed(tenant, site.endpoint_id, now, now + hour)
