"""Forecasts of what runs, by the shipped predictor, on a real PostgreSQL."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from foundry.catalog.registry.domain import VersionSpec
from foundry.config import ServingSettings
from foundry.infra.database import Database, utcnow
from foundry.serving.outcomes.domain import Load
from foundry.serving.outcomes.forecasting import PredictorForecasts, workload_of
from foundry.serving.outcomes.repository import BiasRows
from foundry.serving.outcomes.tables import BudsimBias
from tests.catalog.registry.files import base_dir
from tests.control.client import Control, register, running_control
from tests.serving.endpoints.cluster import run_endpoints
from tests.serving.recommendations.questions import LLAMA

pytest.importorskip("foundry.engines.budsim.predictor")
pytestmark = pytest.mark.postgres
LOAD = Load(4.0, 128.0, 128.0, 128.0, 64.0, 64.0, 64.0)
VERSION = "0.29.0"


@pytest.fixture
async def control(database: Database, tmp_path: Path) -> AsyncIterator[Control]:
    async with running_control(database, tmp_path / "objects") as running:
        folder = base_dir(tmp_path / "base")
        (folder / "config.json").write_text(json.dumps(LLAMA))
        await register(running, VersionSpec("smol", "base", "import"), folder)
        yield running


async def deployed(control: Control) -> tuple[UUID, int]:
    answer = await control.client.post("/endpoints", json={"model": "smol", "deploy": True})
    endpoint = answer.json()
    await run_endpoints(control.database)
    return UUID(endpoint["id"]), endpoint["revision"]


def forecasts(control: Control) -> PredictorForecasts:
    serving = ServingSettings(max_num_seqs=8, max_model_len=512)
    return PredictorForecasts(control.database, control.objects, serving, VERSION)


async def test_what_runs_is_predicted_under_its_load(control: Control) -> None:
    endpoint_id, revision = await deployed(control)
    found = await forecasts(control).forecast(endpoint_id, revision, LOAD)
    assert found is not None
    assert (found.gpu, found.engine, found.engine_version) == ("cpu", "vllm", VERSION)
    assert found.configuration["max_num_seqs"] == 8
    assert found.configuration["max_model_len"] == 512
    assert (found.point["batch"], found.point["input"], found.point["layers"]) == (4.0, 128.0, 32.0)
    for name in ("ttft_p50_ms", "tpot_ms", "throughput_tps"):
        low, point, high = found.predicted[name]
        assert 0 < low <= point <= high
        assert found.applied[name] == (1.0, 1.0)
    assert await forecasts(control).forecast(endpoint_id, revision + 1, LOAD) is None


async def test_the_sites_corrections_are_applied_and_told(control: Control) -> None:
    endpoint_id, revision = await deployed(control)
    plain = await forecasts(control).forecast(endpoint_id, revision, LOAD)
    async with control.database.begin() as db:
        row = BudsimBias(
            gpu="cpu",
            engine="vllm",
            engine_version=VERSION,
            target="tpot_ms",
            factor=1.5,
            spread=0.5,
            windows=5.0,
            measured_at=utcnow(),
        )
        await BiasRows(db).replace([row])
    corrected = await forecasts(control).forecast(endpoint_id, revision, LOAD)
    assert plain is not None
    assert corrected is not None
    assert corrected.applied["tpot_ms"] == (1.5, 0.5)
    assert corrected.predicted["tpot_ms"][1] == pytest.approx(plain.predicted["tpot_ms"][1] * 1.5)
    assert corrected.predicted["ttft_p50_ms"] == plain.predicted["ttft_p50_ms"]


def test_a_load_is_a_closed_workload() -> None:
    found = workload_of(LOAD)
    assert (found.users, found.rate) == (4.0, None)
    assert (found.input.mean, found.output.p95) == (128.0, 64.0)
