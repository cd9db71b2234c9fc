"""What Serve deploys stays light: the supervisor and the stub ingress must not load an engine."""

import json
import subprocess
import sys

import pytest
from starlette.requests import Request

from foundry.errors import EngineFailed
from foundry.serving.engine.deployment import Closed, EngineReplica


def test_building_an_engine_application_loads_no_engine() -> None:
    code = (
        "import sys, json, foundry.supervisor.vllm_runtime, serve_apps.gateway;"
        "print(json.dumps([m for m in ('vllm', 'torch', 'ray.llm') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == []


async def test_the_stub_ingress_answers_404_in_openais_shape() -> None:
    answer = await Closed(None)(Request({"type": "http"}))
    assert answer.status_code == 404
    assert json.loads(bytes(answer.body))["error"]["code"] == "not_found"


class DeadServer:
    async def check_health(self) -> None:
        raise EngineFailed("the engine died")


async def test_a_replica_whose_engine_is_dead_ends_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("foundry.serving.engine.deployment.os._exit", ended.append)
    replica = EngineReplica.__new__(EngineReplica)
    replica._server = DeadServer()  # type: ignore[assignment]
    await replica.check_health()
    assert ended == [70]
