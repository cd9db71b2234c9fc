"""What Serve deploys stays light: the supervisor and the stub ingress must not load an engine."""

import json
import subprocess
import sys
from uuid import UUID

import pytest
from starlette.requests import Request

from foundry.config import ServingSettings
from foundry.errors import EngineFailed
from foundry.serving.engine.deployment import Closed, EngineReplica, EngineSpec
from foundry.serving.engine.options import EngineOptions
from serve_apps.engine import bind_deployments


def test_building_an_engine_application_loads_no_engine() -> None:
    code = (
        "import sys, json, serve_apps.engine, serve_apps.gateway;"
        "print(json.dumps([m for m in ('vllm', 'torch', 'ray.llm') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == []


async def test_the_stub_ingress_answers_404_in_openais_shape() -> None:
    answer = await Closed(None)(Request({"type": "http"}))
    assert answer.status_code == 404
    assert json.loads(bytes(answer.body))["error"]["code"] == "not_found"


def test_a_replica_reserves_what_its_endpoint_asks_for() -> None:
    options = EngineOptions.of({"replicas": 2, "resources": {"cpu_cores": 1.5, "memory_gb": 4}})
    spec = EngineSpec(UUID(int=1), "engine-x-r1", ServingSettings(max_num_seqs=8), options)
    application = bind_deployments(
        EngineReplica, spec, replicas=2, need=options.need(on_cpu=True), version="digest"
    )
    (engine,) = application._bound_deployment.init_args
    deployment = engine._bound_deployment
    assert deployment.num_replicas == 2
    assert deployment.max_ongoing_requests == 16
    reserved = deployment.ray_actor_options
    assert (reserved["num_cpus"], reserved["num_gpus"], reserved["memory"]) == (1.5, 0, 4 * 10**9)
    # The same versions again only change the number of replicas; the ingress is left alone.
    assert deployment.version == "digest"
    assert application._bound_deployment.version == "digest"


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
