"""Every deployment has a prediction, also one that nobody asked about."""

from pathlib import Path
from uuid import UUID

import pytest

from foundry.errors import InvalidRequest, Unavailable
from foundry.infra.database import Database
from foundry.serving.outcomes.expecting import DESIGN_LOAD, Expectations
from foundry.serving.recommendations.service import find_prediction
from tests.control.client import Control, running_control, with_models
from tests.serving.endpoints.cluster import run_endpoints
from tests.serving.outcomes.windows import FakeForecasts

pytestmark = pytest.mark.postgres


async def deployed(control: Control) -> tuple[UUID, int]:
    answer = await control.client.post("/endpoints", json={"model": "smol", "deploy": True})
    endpoint = answer.json()
    await run_endpoints(control.database)
    return UUID(endpoint["id"]), endpoint["revision"]


async def test_a_plain_deployment_gets_its_prediction_once(
    database: Database, tmp_path: Path
) -> None:
    async with running_control(database, tmp_path / "o") as control:
        await with_models(control, tmp_path)
        which, forecasts = await deployed(control), FakeForecasts()
        expectations = Expectations(database, forecasts)
        assert await expectations.predict_missing() == 1
        assert await expectations.predict_missing() == 0
        assert forecasts.asked == [DESIGN_LOAD]
        async with database.begin() as db:
            row = await find_prediction(db, *which)
    assert row is not None
    assert row.predicted["tpot_ms"] == {"low": 40 / 1.2, "point": 40.0, "high": 48.0}
    assert row.workload["users"] == 8.0
    assert row.workload["input"] == {"mean": 1024.0, "p50": 1024.0, "p95": 1024.0}
    assert (row.model_version, row.recommendation_id) == ("1", None)
    assert row.configuration == {"max_num_seqs": 16}


async def test_a_cluster_that_is_away_is_asked_again(database: Database, tmp_path: Path) -> None:
    async with running_control(database, tmp_path / "o") as control:
        await with_models(control, tmp_path)
        await deployed(control)
        forecasts = FakeForecasts(fault=Unavailable("Ray did not answer"))
        expectations = Expectations(database, forecasts)
        assert [await expectations.predict_missing() for _ in range(2)] == [0, 0]
        assert len(forecasts.asked) == 2
        forecasts.fault = None
        assert await expectations.predict_missing() == 1


async def test_what_a_library_raises_ends_no_turn(database: Database, tmp_path: Path) -> None:
    async with running_control(database, tmp_path / "o") as control:
        await with_models(control, tmp_path)
        await deployed(control)
        forecasts = FakeForecasts(fault=KeyError("GPU"))
        expectations = Expectations(database, forecasts)
        assert [await expectations.predict_missing() for _ in range(2)] == [0, 0]
        assert len(forecasts.asked) == 1


async def test_what_cannot_be_predicted_is_asked_once(database: Database, tmp_path: Path) -> None:
    async with running_control(database, tmp_path / "o") as control:
        await with_models(control, tmp_path)
        await deployed(control)
        forecasts = FakeForecasts(fault=InvalidRequest("the model is unknown"))
        expectations = Expectations(database, forecasts)
        assert [await expectations.predict_missing() for _ in range(3)] == [0, 0, 0]
        assert len(forecasts.asked) == 1
