"""How far a model's files are, from tasks that are scripted."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError, WorkerCrashedError

from foundry.catalog.registry.domain import Manifest
from foundry.config import Settings
from foundry.errors import DiskFull, InvalidArtifact, Unavailable
from foundry.infra.objects import FileRef
from foundry.infra.wiring import cache_dir
from foundry.supervisor import transfers
from foundry.supervisor.ports import Transfer
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.transfers import RayTransfers, fetch_weights, measure_weights

VERSION = UUID(int=5)


@dataclass
class FakeRay:
    """Tasks by name; those in `results` have ended, with a value or an error."""

    results: dict[str, Any] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def begin(self, nodes: list[str], task: Any, version_id: UUID) -> list[str]:
        names = [f"{task.__name__}@{node}" for node in nodes]
        self.begun += names
        return names

    def cancel(self, task: str, *, force: bool) -> None:
        assert force
        self.cancelled.append(task)

    def nodes(self) -> list[dict[str, Any]]:
        gpus = {"cpu": 0.0, "gpu-a": 1.0, "gpu-b": 4.0}
        alive = [
            {"NodeID": name, "Alive": True, "Resources": {"GPU": count}}
            for name, count in gpus.items()
        ]
        return [*alive, {"NodeID": "dead", "Alive": False, "Resources": {"GPU": 8.0}}]

    def wait(self, tasks: list[str], **_: object) -> tuple[list[str], list[str]]:
        done = [task for task in tasks if task in self.results]
        return done, [task for task in tasks if task not in done]

    def get(self, tasks: list[str]) -> list[Any]:
        for task in tasks:
            if isinstance(error := self.results[task], Exception):
                raise error
        return [self.results[task] for task in tasks]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay()
    for name in ("nodes", "wait", "get", "cancel"):
        monkeypatch.setattr(ray, name, getattr(made, name))
    monkeypatch.setattr(transfers, "_on_each", made.begin)
    return made


@pytest.fixture
def tasks() -> Any:
    calls = RayCalls(timeout_s=20.0)
    yield RayTransfers(calls)
    calls.close()


async def test_files_go_to_the_nodes_that_engines_go_to(fake: FakeRay, tasks: RayTransfers) -> None:
    assert await tasks.continue_fetch(VERSION, 2) == Transfer(done=False)
    fetches = ["fetch_weights@gpu-b", "fetch_weights@gpu-a"]
    assert [name for name in fake.begun if name.startswith("fetch")] == fetches
    fake.results |= {"measure_weights@gpu-b": (10, 100), "measure_weights@gpu-a": (5, 100)}
    assert await tasks.continue_fetch(VERSION, 2) == Transfer(
        done=False, bytes_done=15, bytes_total=200
    )
    # One node has all; the other is waited for.
    fake.results[fetches[0]] = None
    assert not (await tasks.continue_fetch(VERSION, 2)).done
    fake.results[fetches[1]] = None
    assert await tasks.continue_fetch(VERSION, 2) == Transfer(done=True)
    assert [name for name in fake.begun if name.startswith("fetch")] == fetches


async def test_sixteen_nodes_at_most_and_as_many_as_there_are_replicas(
    fake: FakeRay, tasks: RayTransfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [{"NodeID": f"n{number}", "Alive": True, "Resources": {}} for number in range(20)]
    monkeypatch.setattr(ray, "nodes", lambda: many)
    await tasks.continue_fetch(VERSION, 20)
    await tasks.continue_fetch(UUID(int=6), 3)
    fetches = [name for name in fake.begun if name.startswith("fetch")]
    assert fetches == [f"fetch_weights@n{number}" for number in (*range(16), 0, 1, 2)]


async def test_a_minute_without_a_look_is_not_yet_forgotten(fake: FakeRay) -> None:
    now = 100.0
    calls = RayCalls(timeout_s=20.0)
    tasks = RayTransfers(calls, clock=lambda: now)
    await tasks.continue_fetch(VERSION, 1)
    for _ in range(3):
        now += 60.0
        assert not (await tasks.continue_fetch(VERSION, 1)).done
    calls.close()
    assert fake.cancelled == []
    assert fake.begun.count("fetch_weights@gpu-b") == 1


async def test_a_damaged_file_is_said_and_fetched_anew_the_next_time(
    fake: FakeRay, tasks: RayTransfers
) -> None:
    fault = InvalidArtifact("weights are damaged")
    fake.results["fetch_weights@gpu-b"] = RayTaskError("fetch", "trace", fault)
    with pytest.raises(InvalidArtifact, match="weights are damaged"):
        await tasks.continue_fetch(VERSION, 1)
    fake.results["fetch_weights@gpu-b"] = None
    assert (await tasks.continue_fetch(VERSION, 1)).done
    assert fake.begun.count("fetch_weights@gpu-b") == 2


@pytest.mark.parametrize(
    "error",
    [
        RayTaskError("fetch", "trace", OSError("reset")),
        WorkerCrashedError(),
        NodeDiedError("the node is gone"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_task_that_died_of_something_else_is_tried_again(
    fake: FakeRay, tasks: RayTransfers, error: RayError
) -> None:
    fake.results["fetch_weights@gpu-b"] = error
    with pytest.raises(Unavailable):
        await tasks.continue_fetch(VERSION, 1)
    fake.results["fetch_weights@gpu-b"] = None
    assert (await tasks.continue_fetch(VERSION, 1)).done
    assert fake.begun.count("fetch_weights@gpu-b") == 2


async def test_what_nobody_waits_for_any_more_is_ended_and_its_error_is_nobodys(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    calls = RayCalls(timeout_s=20.0)
    tasks = RayTransfers(calls, clock=lambda: now)
    assert not (await tasks.continue_fetch(VERSION, 1)).done
    # The endpoint was stopped, and the task met a full disk.
    fake.results["fetch_weights@gpu-b"] = RayTaskError("fetch", "trace", DiskFull("no room"))
    now += 60.1
    begin = fake.begin

    def begin_anew(nodes: list[str], task: Any, version_id: UUID) -> list[str]:
        fake.results.clear()
        return begin(nodes, task, version_id)

    monkeypatch.setattr(transfers, "_on_each", begin_anew)
    assert not (await tasks.continue_fetch(VERSION, 1)).done
    assert fake.cancelled == ["fetch_weights@gpu-b"]
    assert fake.begun.count("fetch_weights@gpu-b") == 2
    calls.close()


async def test_a_fetch_goes_to_its_node_and_elsewhere_if_that_dies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[str, bool, dict[str, Any], str]] = []

    class Task:
        def __init__(self, **options: Any) -> None:
            self._options = options

        def __call__(self, function: Any) -> "Task":
            self._name = function.__name__
            return self

        def remote(self, version_id: str) -> str:
            strategy = self._options.pop("scheduling_strategy")
            assert version_id == str(VERSION)
            said.append((strategy.node_id, strategy.soft, self._options, self._name))
            return f"{self._name}@{strategy.node_id}"

    monkeypatch.setattr(ray, "remote", Task)
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"NodeID": "ab" * 28, "Alive": True, "Resources": {}}]
    )
    monkeypatch.setattr(ray, "wait", lambda tasks, num_returns, timeout: ([], tasks))
    monkeypatch.setattr(ray, "get", lambda tasks: [])
    calls = RayCalls(timeout_s=20.0)
    assert not (await RayTransfers(calls).continue_fetch(VERSION, 1)).done
    calls.close()
    options = {"num_cpus": 0, "max_retries": 2}
    assert said == [
        ("ab" * 28, True, options, "fetch_weights"),
        ("ab" * 28, True, options, "measure_weights"),
    ]


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """A version of two files, 30 bytes, whose cache is below `tmp_path`."""
    sizes = {"config.json": 10, "weights/model.safetensors": 20}
    files = tuple(FileRef(path, "aa" * 32, size, f"m/{path}") for path, size in sizes.items())
    made = Manifest(VERSION, "bb" * 32, files)

    @asynccontextmanager
    async def open_database(settings: Settings) -> AsyncIterator[str]:
        yield "database"

    async def load_manifest(database: str, version_id: UUID) -> Manifest:
        assert (database, version_id) == ("database", VERSION)
        return made

    monkeypatch.setattr(transfers, "load_settings", lambda: Settings(home=tmp_path))
    monkeypatch.setattr(transfers, "open_database", open_database)
    monkeypatch.setattr(transfers, "load_manifest", load_manifest)
    return made


def test_what_is_here_is_counted_while_it_comes_and_when_it_is_complete(
    manifest: Manifest, tmp_path: Path
) -> None:
    assert measure_weights(str(VERSION)) == (0, 30)
    partial = cache_dir(Settings(home=tmp_path)) / f".{manifest.digest}.partial"
    (partial / "weights").mkdir(parents=True)
    (partial / "config.json").write_bytes(b"x" * 10)
    (partial / "weights" / "model.safetensors").write_bytes(b"x" * 5)
    assert measure_weights(str(VERSION)) == (15, 30)
    partial.rename(partial.with_name(manifest.digest))
    assert measure_weights(str(VERSION)) == (15, 30)


def test_a_nodes_task_fills_its_cache(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[str, tuple[FileRef, ...]]] = []

    class Weights:
        async def ensure(self, digest: str, files: tuple[FileRef, ...]) -> None:
            fetched.append((digest, files))

    monkeypatch.setattr(transfers, "open_weights", lambda settings: Weights())
    fetch_weights(str(VERSION))
    assert fetched == [(manifest.digest, manifest.files)]
