"""Engines as applications of Ray Serve; the fakes raise what Ray raises."""

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ServeStatus

from foundry.config import ServingSettings
from foundry.engines.budsim.model_config import model_spec
from foundry.errors import EngineFailed, Unavailable
from foundry.serving.endpoints.domain import EndpointSnapshot, EndpointState, RevisionSnapshot
from foundry.serving.engine.hardware import Hardware, Node
from foundry.serving.engine.runtime import VllmRules
from foundry.serving.engine.shape import ModelShape
from foundry.supervisor import serve_engines
from foundry.supervisor.ports import EngineObservation, Transfer
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.serve_engines import EngineBuild, ServeEngines
from tests.serving.recommendations.questions import LLAMA

NAME = "engine-x-r1"
ID = UUID(int=1)
RAY_FAULTS = [
    TimeoutError(),
    GetTimeoutError("late"),
    KeyError(NAME),
    RuntimeError("Request failed with status code 404: not found"),
    RayActorError(),
    RayServeException("There is no Serve instance running on this Ray cluster"),
    ConnectionError("refused"),
]


class FakeRuntime(VllmRules):
    def __init__(self) -> None:
        super().__init__(ServingSettings())
        self.built: list[EngineBuild] = []

    def build(self, wanted: EngineBuild) -> Any:
        self.built.append(wanted)
        return "application"

    async def health(self, app_name: str, model: str) -> None:
        raise EngineFailed(f"{app_name} {model}")


class FakeHardware:
    def __init__(self) -> None:
        self.hardware = Hardware((Node(4, 8),), (Node(2, 8),))

    async def read_hardware(self) -> Hardware:
        return self.hardware


class FakeShapes:
    """Of Llama-3-8B, with half of its context."""

    async def read_shape(self, endpoint: EndpointSnapshot) -> ModelShape:
        return ModelShape(4096, model_spec(LLAMA))


class FakeTransfers:
    async def continue_fetch(self, version_id: UUID, nodes: int) -> Transfer:
        return Transfer(done=True)


def snapshots(**config: object) -> tuple[EndpointSnapshot, RevisionSnapshot]:
    endpoint = EndpointSnapshot(
        ID, ID, ID, "smol", ID, "running", EndpointState.PENDING, NAME, {}, 1
    )
    return endpoint, RevisionSnapshot(1, NAME, config, "digest", replicas=2)


@pytest.fixture
def calls() -> Any:
    made = RayCalls(timeout_s=20.0)
    yield made
    made.close()


@pytest.fixture
def engines(calls: RayCalls) -> ServeEngines:
    return ServeEngines(FakeRuntime(), FakeHardware(), FakeShapes(), FakeTransfers(), calls)


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("error", RAY_FAULTS, ids=lambda error: type(error).__name__)
async def test_what_ray_raises_may_be_tried_again(
    engines: ServeEngines, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(serve, "status", raising(error))
    monkeypatch.setattr(serve, "run_many", raising(error))
    monkeypatch.setattr(serve_engines, "_get_global_client", lambda **_: object())
    with pytest.raises(Unavailable):
        await engines.observe()
    with pytest.raises(Unavailable):
        await engines.deploy(*snapshots())


async def test_an_engine_is_not_deployed_where_serve_does_not_run(
    engines: ServeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(serve, "run_many", lambda *args, **_: started.append(args))
    monkeypatch.setattr(serve_engines, "_get_global_client", lambda **_: None)
    with pytest.raises(Unavailable, match="Ray Serve does not run"):
        await engines.deploy(*snapshots())
    assert started == []


async def test_engines_are_not_lost_while_serve_has_no_controller(
    engines: ServeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Ray's `serve.status` answers then.
    monkeypatch.setattr(serve, "status", ServeStatus)
    monkeypatch.setattr(serve_engines, "_get_global_client", lambda **_: None)
    with pytest.raises(Unavailable, match="Ray Serve does not run"):
        await engines.observe()
    monkeypatch.setattr(serve_engines, "_get_global_client", lambda **_: object())
    assert await engines.observe() == {}


async def test_an_unknown_application_is_deleted_already(
    engines: ServeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "delete", raising(KeyError(NAME)))
    await engines.delete(NAME)
    monkeypatch.setattr(serve, "delete", raising(RuntimeError("404")))
    with pytest.raises(Unavailable):
        await engines.delete(NAME)


async def test_what_is_deleted_now_is_deleted_first_and_then_killed(
    engines: ServeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(serve, "delete", lambda name, **_: done.append(f"delete {name}"))
    monkeypatch.setattr(serve_engines, "kill_replicas", lambda name: done.append(f"kill {name}"))
    await engines.delete(NAME)
    assert done == [f"delete {NAME}"]
    await engines.delete(NAME, now=True)
    assert done[1:] == [f"delete {NAME}", f"kill {NAME}"]
    # Also what Serve knows no more may have a replica that hangs.
    monkeypatch.setattr(serve, "delete", raising(KeyError(NAME)))
    await engines.delete(NAME, now=True)
    assert done[3:] == [f"kill {NAME}"]


async def test_requests_that_cannot_be_counted_are_unknown(
    engines: ServeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_engines, "count_running_requests", lambda *_: 3)
    assert await engines.count_requests(NAME) == 3
    monkeypatch.setattr(serve_engines, "count_running_requests", raising(RayActorError()))
    assert await engines.count_requests(NAME) is None


async def test_a_frozen_ray_holds_no_other_thread() -> None:
    thaw = threading.Event()
    frozen = RayCalls(timeout_s=0.05, threads=2)
    try:
        for _ in range(6):
            with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
                await frozen.run(lambda: thaw.wait(60))
        assert await asyncio.to_thread(lambda: "free") == "free"
    finally:
        thaw.set()
        frozen.close()


async def test_applications_are_observed_by_name(
    engines: ServeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def application(status: str, replicas: dict[str, int], message: str = "") -> Any:
        engine = SimpleNamespace(message="no node has 3 CPUs", replica_states=replicas)
        return SimpleNamespace(
            status=ApplicationStatus(status), message=message, deployments={"llm": engine}
        )

    found = {
        "engine-a-r1": application("RUNNING", {"RUNNING": 2}, "up"),
        "engine-b-r2": application("DEPLOYING", {"STARTING": 1}),
        "engine-c-r3": application("UNHEALTHY", {"RUNNING": 1, "STARTING": 1}, "died"),
        "engine-d-r4": application("DEPLOY_FAILED", {}, "ValueError"),
        "engine-e-r5": application("DELETING", {}, "going"),
        "gateway": application("RUNNING", {"RUNNING": 1}),
    }
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=found))
    monkeypatch.setattr(serve_engines, "_get_global_client", lambda **_: object())
    assert await engines.observe() == {
        "engine-a-r1": EngineObservation("running", "up", 2),
        "engine-b-r2": EngineObservation("starting", "no node has 3 CPUs", 0),
        "engine-c-r3": EngineObservation("unhealthy", "died", 1),
        "engine-d-r4": EngineObservation("failed", "ValueError", 0),
        "engine-e-r5": EngineObservation("deleting", "going", 0),
    }


@pytest.mark.parametrize(
    ("config", "strategy"),
    [
        ({}, "recreate"),
        ({"strategy": "surge"}, "surge"),
        ({"resources": {"cpu_cores": 1}}, "surge"),
        ({"resources": {"cpu_cores": 1.5}}, "recreate"),
        ({"resources": {"cpu_cores": 1}, "strategy": "recreate"}, "recreate"),
    ],
)
async def test_the_strategy_follows_the_room_unless_it_is_configured(
    engines: ServeEngines, config: dict[str, object], strategy: str
) -> None:
    found = await engines.validate(*snapshots(**config))
    assert (found.reasons, found.missing, found.strategy) == ((), (), strategy)


async def test_the_model_is_checked_again_before_anything_is_touched(
    engines: ServeEngines,
) -> None:
    found = await engines.validate(*snapshots(tensor_parallel_size=3, max_model_len=5000))
    assert [each.split(":")[0] for each in found.reasons] == [
        "max_model_len 5000 is more than the model's context of 4096",
        "tensor_parallel_size 3 does not divide the model's 32 attention heads with 8 key-value "
        "heads",
        "one sequence of max_model_len 4096 needs 1.07 GB of KV cache, and engines on CPUs have "
        "0.54 GB",
    ]


async def test_an_application_is_built_for_the_wanted_replicas(
    calls: RayCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, hardware = FakeRuntime(), FakeHardware()
    engines = ServeEngines(runtime, hardware, FakeShapes(), FakeTransfers(), calls)
    started: list[Any] = []
    monkeypatch.setattr(serve, "run_many", lambda targets, **_: started.extend(targets))
    monkeypatch.setattr(serve_engines, "_get_global_client", lambda **_: object())
    await engines.deploy(*snapshots(max_num_seqs=3, replicas=1))
    assert runtime.built == [
        EngineBuild(
            base_version_id=ID,
            app_name=NAME,
            config={"max_num_seqs": 3, "replicas": 2},
            config_digest="digest",
            hardware=hardware.hardware,
            model=ModelShape(4096, model_spec(LLAMA)),
        )
    ]
    assert [(target.name, target.route_prefix) for target in started] == [(NAME, None)]
