"""Replicas of an application as actors; the fakes raise what Ray raises, one test asks Ray."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray.exceptions import RayActorError

from foundry.supervisor import serve_replicas
from foundry.supervisor.serve_replicas import count_running_requests, kill_replicas

NAME = "engine-x-r1"


class FakeRay:
    """Actors by name: how many requests each answers, or what asking for it raises."""

    def __init__(self, **actors: int | Exception | None) -> None:
        self.actors = {f"SERVE_REPLICA::{name}": found for name, found in actors.items()}
        self.killed: list[str] = []

    def list_named_actors(self, all_namespaces: bool) -> list[dict[str, str]]:
        # Serve's actors are in a namespace of their own.
        assert all_namespaces
        known = [{"name": name, "namespace": "serve"} for name in self.actors]
        return [*known, {"name": f"SERVE_REPLICA::{NAME}#llm#z", "namespace": "other"}]

    def get_actor(self, name: str, namespace: str) -> Any:
        if isinstance(self.actors[name], ValueError):
            raise ValueError(f"Failed to look up actor with name '{name}'")
        asked = SimpleNamespace(remote=lambda: name)
        return SimpleNamespace(get_num_ongoing_requests=asked, name=name)

    def wait(self, asked: list[str], **_: object) -> tuple[list[str], list[str]]:
        told = [name for name in asked if self.actors[name] is not None]
        return told, [name for name in asked if name not in told]

    def get(self, told: list[str]) -> list[int]:
        for found in (self.actors[name] for name in told):
            if isinstance(found, Exception):
                raise found
        return [self.actors[name] for name in told]  # type: ignore[misc]

    def kill(self, actor: Any, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(actor.name)


def faked(monkeypatch: pytest.MonkeyPatch, actors: dict[str, Any]) -> FakeRay:
    fake = FakeRay(**actors)
    monkeypatch.setattr(serve_replicas, "ray", fake)
    monkeypatch.setattr(serve_replicas, "list_named_actors", fake.list_named_actors)
    return fake


OTHERS = {f"{NAME}#closed#c": 9, "engine-x-r12#llm#d": 9, "gateway#gateway#e": 9}


@pytest.mark.parametrize(
    ("replicas", "requests"),
    [
        ({}, 0),
        ({"a": 2, "b": 1}, 3),
        # Ended after it was listed.
        ({"a": 2, "b": ValueError()}, 2),
        # Frozen, and died while it was asked.
        ({"a": 2, "b": None}, None),
        ({"a": 2, "b": RayActorError()}, None),
    ],
)
def test_the_requests_of_one_deployment_are_counted(
    monkeypatch: pytest.MonkeyPatch, replicas: dict[str, Any], requests: int | None
) -> None:
    faked(monkeypatch, OTHERS | {f"{NAME}#llm#{each}": n for each, n in replicas.items()})
    assert count_running_requests(NAME, "llm") == requests


def test_every_replica_of_the_application_is_killed_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = faked(monkeypatch, OTHERS | {f"{NAME}#llm#a": 1, f"{NAME}#llm#b": ValueError()})
    kill_replicas(NAME)
    assert fake.killed == [f"SERVE_REPLICA::{NAME}#closed#c", f"SERVE_REPLICA::{NAME}#llm#a"]


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.mark.ray
def test_serves_own_replicas_are_counted_and_killed(cluster: None) -> None:
    class Endless:
        async def stream(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0.1)
                yield b"x"

    deployment = serve.deployment(name="llm", graceful_shutdown_timeout_s=900.0)(Endless)
    handle = serve.run(deployment.bind(), name=NAME, route_prefix=None)
    streams = [handle.options(stream=True).stream.remote() for _ in range(3)]
    for stream in streams:
        assert next(iter(stream)) == b"x"
    assert count_running_requests(NAME, "llm") == 3
    serve.delete(NAME, _blocking=False)
    kill_replicas(NAME)
    # Blocks until it is gone; with requests that never end it would take their 900 s.
    serve.delete(NAME, _blocking=True)
    assert NAME not in serve.status().applications
    assert count_running_requests(NAME, "llm") == 0
