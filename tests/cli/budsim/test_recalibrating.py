"""`foundry budsim recalibrate`: CLI, SDK, control plane and gateway over a scripted engine."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from foundry.cli.main import run
from foundry.config import HttpSettings
from foundry.engines.budsim.packing import shipped_scores
from foundry.gateway.app import create_gateway
from foundry.gateway.measurement import Measurement
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database
from foundry.serving.endpoints.service import Routing
from foundry.serving.outcomes.service import Closing, GatewayWindows
from tests.control.client import PEPPER, SECURITY, Control, running_control, with_models
from tests.fakes.engine import FakeEngine, FakeUpstream
from tests.gateway.conftest import RecordingMeter
from tests.serving.endpoints.cluster import run_endpoints
from tests.serving.outcomes.windows import FakeDisturbances, FakeForecasts

LEVELS = ("--concurrency", "1,3", "--requests", "8", "--input-tokens", "6", "--output-tokens", "8")


@dataclass
class Stack:
    """Both planes on one port, as `foundry up` mounts them."""

    control: Control
    measurement: Measurement
    engine: FakeEngine
    forecasts: FakeForecasts
    endpoint: dict[str, Any]
    url: str


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        # Connections queue from here on, whether it accepts them already or not.
        listener.listen()
        task = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await task


@pytest.fixture
async def stack(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stack]:
    async with running_control(database, tmp_path / "objects") as control:
        await with_models(control, tmp_path)
        forecasts = FakeForecasts(tpot_ms=15.0, ttft_ms=30.0)
        control.app.state.forecasts = forecasts
        answer = await control.client.post("/endpoints", json={"model": "smol", "deploy": True})
        endpoint = answer.json()
        await run_endpoints(database)
        engine = FakeEngine(words=("a",) * 8, first_s=0.05, gap_s=0.025)
        measurement = Measurement(
            RecordingMeter(),
            GatewayWindows(database),
            engine_version="0.29.0",
            window_s=3600.0,
            flush_s=1.0,
        )
        authenticator = Authenticator(database, PEPPER, SECURITY)
        gateway = create_gateway(
            database=database,
            authenticator=authenticator,
            routing=Routing(database, max_model_len=2048),
            upstream=FakeUpstream(engine),
            meter=measurement,
            settings=HttpSettings(),
        )
        both = FastAPI()
        both.mount("/v1", gateway)
        both.mount("/api", control.app)
        async with serving(both) as url:
            key = control.client.headers["authorization"].removeprefix("Bearer ")
            monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "home"))
            monkeypatch.setenv("FOUNDRY_CLIENT__URL", url)
            monkeypatch.setenv("FOUNDRY_CLIENT__API_KEY", key)
            yield Stack(control, measurement, engine, forecasts, endpoint, url)
        authenticator.close()


async def cli(*arguments: str) -> int:
    return await asyncio.to_thread(run, ["budsim", *arguments])


@pytest.mark.postgres
async def test_a_load_test_is_measured_compared_and_kept(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await cli("recalibrate", "smol", *LEVELS, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["levels"]) == 2
    for level in found["levels"]:
        assert 45 < level["actual"]["ttft_p50_ms"] < 120
        assert 22 < level["actual"]["tpot_ms"] < 45
        assert not level["covered"]["tpot_ms"]
    assert [round(level["concurrency"]) for level in found["levels"]] == [1, 3]
    # Two windows are too few to correct anything.
    assert found["biases"] == []
    assert await cli("recalibrate", "smol", *LEVELS) == 0
    text = capsys.readouterr().out
    assert "TTFT p50, ms" in text
    factors = [line.split() for line in text.splitlines() if " tpot_ms " in line]
    assert 1.4 < float(factors[0][2]) < 2.6
    assert await cli("outcomes", "--endpoint", "smol", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed["data"]) == 4
    assert {row["source"] for row in listed["data"]} == {"load_test"}
    assert [alarm["stale"] for alarm in listed["staleness"]] == [False]


@pytest.mark.postgres
async def test_the_gateway_saw_the_same_load(
    stack: Stack, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await cli("recalibrate", "smol", *LEVELS, "--json") == 0
    client = json.loads(capsys.readouterr().out)["levels"]
    await stack.measurement.flush()
    closing = Closing(database, stack.forecasts, FakeDisturbances(), min_requests=5)
    (key,) = stack.measurement._open
    assert await closing.close_windows(datetime.fromtimestamp((key[3] + 2) * 3600.0, UTC)) == 1
    assert await cli("outcomes", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["data"]
    (gateway,) = [row for row in rows if row["source"] == "gateway"]
    assert gateway["endpoint_id"] == stack.endpoint["id"]
    assert gateway["n"] >= 16
    measured = [level["actual"]["tpot_ms"] for level in client]
    assert min(measured) * 0.8 < gateway["actual"]["tpot_ms"] < max(measured) * 1.25


@pytest.mark.postgres
async def test_what_goes_wrong_is_said(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert await cli("recalibrate", "nobody") == 3
    assert "there is no endpoint nobody" in capsys.readouterr().err
    assert await cli("outcomes", "--endpoint", "nobody") == 3
    assert await cli("outcomes", "--endpoint", "smol") == 0
    assert "no outcomes of smol yet: `foundry budsim recalibrate" in capsys.readouterr().out
    assert await cli("recalibrate", "smol", "--concurrency", "1,x") == 2
    assert "give numbers like 1,4,8" in capsys.readouterr().err
    assert await cli("recalibrate", "smol", "--model", "nobody") == 3
    assert "the server answered 404" in capsys.readouterr().err
    assert await cli("compare", "0", "7") == 3
    assert "7 is neither a version" in capsys.readouterr().err
    assert await cli("promote", "7") == 3
    assert await cli("promote", "0") == 6
    assert "version 0 is the active one already" in capsys.readouterr().err
    assert await cli("models") == 0
    assert "active" in capsys.readouterr().out
    assert await cli("advice") == 0
    assert "no endpoint would gain" in capsys.readouterr().out
    assert await cli("recalibrate") == 0
    shown = capsys.readouterr().out
    assert "no corrections: three windows" in shown
    assert "`foundry budsim recalibrate ENDPOINT` measures a window" in shown
    assert await cli("recalibrate", "--requests", "8") == 6
    assert "--requests would be ignored: no ENDPOINT" in capsys.readouterr().err
    assert await cli("fit", "out", "--data", ".", "--outcomes") == 6
    assert "nothing to learn from this site: it has no windows yet" in capsys.readouterr().err


@pytest.mark.postgres
async def test_failures_during_the_test_have_an_exit_code(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    async def die() -> None:
        while len(stack.engine.bodies) < 12:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        stack.engine.dies_after = 1

    # Its first level takes ten requests.
    code, _ = await asyncio.gather(cli("recalibrate", "smol", *LEVELS), die())
    shown = capsys.readouterr()
    assert code == 1
    assert "TTFT p50, ms" in shown.out
    assert "at concurrency 3" in shown.err.splitlines()[-1]
    assert "the answer was interrupted" in shown.err
    assert await cli("outcomes", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["data"]
    assert round(row["load"]["concurrency"]) == 1
    # Now nothing is answered at all.
    assert await cli("recalibrate", "smol", *LEVELS) == 1
    assert "error: the answer was interrupted" in capsys.readouterr().err


@pytest.mark.postgres
async def test_an_endpoint_that_does_not_answer_is_not_loaded(
    stack: Stack, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    await stack.control.client.post(f"/endpoints/{stack.endpoint['id']}/stop")
    assert await cli("recalibrate", "smol") == 6
    shown = capsys.readouterr().err
    assert "endpoint smol does not answer requests (stopp" in shown
    assert "`foundry deploy smol@" in shown
    assert stack.engine.bodies == []


@pytest.mark.postgres
async def test_a_fitted_model_is_registered_promoted_and_rolled_back(
    stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fitted"
    copytree(Path(str(files("foundry.engines.budsim"))) / "models" / "1", folder)
    meta = json.loads((folder / "meta.json").read_text())
    meta["version"] = "2"
    meta["cv"] = {
        target: {split: error * 0.9 for split, error in found.items()}
        for target, found in meta["cv"].items()
    }
    meta["card"]["site_cv"] = {"a deployment": [20.0, 15.0]}
    (folder / "meta.json").write_text(json.dumps(meta))
    assert await cli("register", str(folder), "--output", "json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["version"], row["status"], row["reasons"]) == ("2", "active", [])
    assert await cli("register", str(folder)) == 6
    assert "version 2 is registered already: active" in capsys.readouterr().err
    assert row["cv"]["tpot/model"] == pytest.approx(0.9 * shipped_scores()["tpot/model"])
    assert await cli("promote", "0", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "active"
    assert await cli("register", str(tmp_path)) == 2
    assert "holds no predictor" in capsys.readouterr().err
    assert await cli("probe") == 2
    assert "sees no cluster" in capsys.readouterr().err
