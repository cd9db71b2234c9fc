"""One store of checkpoints for every node and attempt, on a real PostgreSQL and a directory."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foundry.config import Settings
from foundry.engines.training.checkpoint import Checkpoint, RunState
from foundry.engines.training.progress import SftResult
from foundry.engines.training.sft import run_sft
from foundry.errors import CommitUnknown, LeaseLost, Unavailable
from foundry.execution.jobs.checkpoints import CheckpointLog
from foundry.execution.jobs.leases import JobLease
from foundry.execution.workers.checkpoints import RemoteCheckpoints, RunCheckpoints
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from tests.engines.training.conftest import chat_rows as chat_rows
from tests.engines.training.conftest import tiny_model as tiny_model
from tests.engines.training.interrupted import CONFIG
from tests.execution.jobs.test_leases import submit
from tests.lost_commits import lose_commit

pytestmark = pytest.mark.postgres

STATE = RunState(step=1, epoch=0, index=1, tokens=9, trained_tokens=4, threads=1, run_digest="d")


def checkpoint(step: int, value: float = 1.0) -> Checkpoint:
    return Checkpoint(replace(STATE, step=step), {"x": torch.full((3,), value)})


def objects_of(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "objects").rglob("*") if path.is_file())


class Place:
    """A job under a lease, and a store."""

    def __init__(self, database: Database, lease: JobLease, root: Path) -> None:
        self.database, self.lease, self.root = database, lease, root
        self.objects = DirectoryStore(root / "objects")
        self.remote = self.attempt(lease)

    def attempt(self, lease: JobLease) -> RemoteCheckpoints:
        return RemoteCheckpoints(self.database, self.objects, lease._job_id, lease.fence)

    async def values(self) -> tuple[int, list[float]]:
        found = await self.remote.load(self.root / "scratch")
        assert found is not None
        return found.state.step, found.tensors["x"].tolist()


@pytest.fixture
async def place(database: Database, tmp_path: Path) -> Place:
    job = await submit(database)
    lease, _ = await JobLease.claim(database, job.id)
    return Place(database, lease, tmp_path)


async def test_the_newest_two_are_kept_and_the_newest_is_read(place: Place) -> None:
    assert await place.remote.load(place.root / "scratch") is None
    for step in (1, 2, 10):
        await place.remote.save(checkpoint(step, float(step)), place.root / "scratch")
    assert await place.values() == (10, [10.0] * 3)
    kept = objects_of(place.root)
    assert [name[:10] for name in kept] == ["1-00000002", "1-00000010"]
    assert list((place.root / "scratch").iterdir()) == []


async def test_an_attempt_that_is_over_leaves_nothing(place: Place) -> None:
    await place.remote.save(checkpoint(3), place.root / "scratch")
    newer, _ = await JobLease.claim(place.database, place.lease._job_id)
    with pytest.raises(LeaseLost):
        await place.remote.save(checkpoint(4), place.root / "scratch")
    assert [name[:10] for name in objects_of(place.root)] == ["1-00000003"]
    later = place.attempt(newer)
    await later.save(checkpoint(2, 7.0), place.root / "scratch")
    assert await place.values() == (2, [7.0] * 3), "a later attempt's counts, whatever its step"


async def test_a_commit_whose_answer_is_lost_keeps_the_checkpoint(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as losing:
        lose_commit(losing, place.database, 1)
        with pytest.raises(CommitUnknown):
            await place.remote.save(checkpoint(5, 5.0), place.root / "scratch")
    assert await place.values() == (5, [5.0] * 3)


async def test_damaged_and_lost_ones_are_passed_over(place: Place) -> None:
    for step in (1, 2):
        await place.remote.save(checkpoint(step, float(step)), place.root / "scratch")
    newest = next((place.root / "objects").rglob("1-00000002-*"))
    data = bytearray(newest.read_bytes())
    data[-3] ^= 0xFF
    newest.write_bytes(data)
    assert await place.values() == (1, [1.0] * 3)
    newest.unlink()
    assert await place.values() == (1, [1.0] * 3)


async def test_a_store_that_cannot_delete_keeps_the_rows_for_later(place: Place) -> None:
    log = CheckpointLog(place.database, place.lease._job_id)
    for step in (1, 2):
        await place.remote.save(checkpoint(step), place.root / "scratch")
    delete = place.objects.delete

    async def refuse(key: str) -> None:
        raise Unavailable("the store is away")

    place.objects.delete = refuse  # type: ignore[method-assign]
    await place.remote.save(checkpoint(3), place.root / "scratch")
    assert len(await log.list_newest_first()) == 3
    place.objects.delete = delete  # type: ignore[method-assign]
    await place.remote.prune(0)
    assert (await log.list_newest_first(), objects_of(place.root)) == ([], [])


def _bytes(result: SftResult) -> bytes:
    assert result.adapter_dir is not None
    return (result.adapter_dir / "adapter_model.safetensors").read_bytes()


async def test_a_run_resumes_on_another_node_to_the_bit(
    database: Database,
    database_url: str,
    tiny_model: Path,
    chat_rows: list[dict[str, object]],
    tmp_path: Path,
) -> None:
    """Stopped on one node, which is lost with its disk; the other has the object store only."""
    job = await submit(database)
    first, _ = await JobLease.claim(database, job.id)
    said: list[str] = []

    def train(node: str, fence: int, stop_after: int | None = None) -> SftResult:
        torch.set_num_threads(1)
        settings = Settings.model_validate(
            {"home": tmp_path / "shared", "database": {"url": database_url}}
        )
        steps: list[int] = []
        return run_sft(
            CONFIG,
            model_dir=tiny_model,
            train_rows=chat_rows,
            work_dir=tmp_path / node,
            on_event=lambda event: steps.append(event.step),
            should_stop=lambda: stop_after is not None and len(steps) == stop_after,
            checkpoints=RunCheckpoints(
                settings, job.id, fence, tmp_path / node / "scratch", said.append
            ),
        )

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = run_sft(
            CONFIG, model_dir=tiny_model, train_rows=chat_rows, work_dir=tmp_path / "whole"
        )
        stopped = await asyncio.to_thread(train, "one", first.fence, 5)
        assert (stopped.stopped, stopped.steps) == (True, 5)
        second, _ = await JobLease.claim(database, job.id)
        resumed = await asyncio.to_thread(train, "two", second.fence)
    finally:
        torch.set_num_threads(before)
    assert _bytes(resumed) == _bytes(whole)
    assert said == []


async def test_training_outlives_a_store_that_is_away(tmp_path: Path, database: Database) -> None:
    job = await submit(database)
    settings = Settings.model_validate(
        {
            "home": tmp_path,
            "database": {
                "url": "postgresql+asyncpg://foundry@127.0.0.1:1/foundry",
                "connect_timeout_s": 0.5,
            },
        }
    )
    said: list[str] = []
    store = RunCheckpoints(settings, job.id, 1, tmp_path / "scratch", said.append)
    await asyncio.to_thread(store.save, checkpoint(4))
    assert said[0].startswith("step 4 has no checkpoint: PostgreSQL cannot be reached")
    assert objects_of(tmp_path) == []
