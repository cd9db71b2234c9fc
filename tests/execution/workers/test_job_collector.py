"""What of ended jobs is archived and removed, and what is not."""

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from foundry.engines.training.diloco.ledger import Ledger
from foundry.errors import NotFound, Unavailable
from foundry.execution.fleets.service import FleetLog
from foundry.execution.jobs.checkpoints import CheckpointLog
from foundry.execution.jobs.domain import MAX_LOG_BYTES, MAX_LOG_CHUNK_BYTES
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.log_archive import JobLogs, archive_log
from foundry.execution.jobs.queue import load
from foundry.execution.jobs.retention import list_collectable_jobs
from foundry.execution.jobs.tables import Job
from foundry.execution.workers.checkpoints import RemoteCheckpoints
from foundry.execution.workers.diloco.checkpoints import FleetState
from foundry.execution.workers.diloco.messages import StoredState
from foundry.execution.workers.job_collector import JobCollector
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from tests.execution.fleets.test_service import committed
from tests.execution.jobs.test_leases import CALLER, logs, resume, submit
from tests.execution.workers.test_checkpoints import checkpoint, objects_of
from tests.governance.identity.principals import principal

DAY_S = 86_400.0


async def _ended_ago(database: Database, job_id: UUID, seconds: float) -> None:
    async with database.begin() as db:
        await db.execute(
            text("UPDATE jobs SET finished_at = now() - make_interval(secs => :s) WHERE id = :id"),
            {"s": seconds, "id": job_id},
        )


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("succeeds", "days", "left"), [(True, 1, 0), (False, 1, 1), (False, 31, 0)]
)
async def test_checkpoints_go_when_nobody_can_resume(
    database: Database, tmp_path: Path, succeeds: bool, days: int, left: int
) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    job = await submit(database)
    lease, _ = await JobLease.claim(database, job.id)
    await lease.log("first words\n")
    await RemoteCheckpoints(database, objects, job.id, lease.fence).save(
        checkpoint(1), tmp_path / "scratch"
    )
    await (lease.finish({}) if succeeds else lease.fail({"code": "x", "message": "y"}))
    await lease.log("last words\n")
    collector = JobCollector(database, objects, 30 * DAY_S)
    await collector.collect()
    assert len(objects_of(tmp_path)) == 1, "it has only just ended"
    await _ended_ago(database, job.id, days * DAY_S)
    await collector.collect()
    await collector.collect()
    found = await load(database, job.id)
    assert found is not None and found.log_key is not None
    told = await logs(database, job.id, objects=objects)
    assert [(chunk.seq, chunk.text) for chunk in told] == [
        (1, "first words\n"),
        (2, "last words\n"),
    ]
    assert len(await CheckpointLog(database, job.id).list_newest_first()) == left
    assert len(objects_of(tmp_path)) == 1 + left
    assert (found.collected_at is not None) == (left == 0)


@pytest.mark.postgres
async def test_a_job_whose_checkpoints_stay_is_collected_later_and_holds_up_no_other(
    database: Database, tmp_path: Path
) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    jobs = []
    for name in ("stuck", "other"):
        job = await submit(database, name)
        lease, _ = await JobLease.claim(database, job.id)
        await RemoteCheckpoints(database, objects, job.id, lease.fence).save(
            checkpoint(1), tmp_path / "scratch"
        )
        await lease.finish({})
        # The stuck one comes first.
        await _ended_ago(database, job.id, DAY_S if name == "stuck" else DAY_S / 2)
        jobs.append(job.id)
    delete = objects.delete

    async def refuse(key: str) -> None:
        if f"checkpoints/{jobs[0]}/" in key:
            raise Unavailable("the store is away")
        await delete(key)

    objects.delete = refuse  # type: ignore[method-assign]
    collector = JobCollector(database, objects, 30 * DAY_S)
    with pytest.raises(Unavailable, match=f"something is left: {jobs[0]}$"):
        await collector.collect()
    found = [await load(database, job_id) for job_id in jobs]
    assert [job is not None and job.collected_at is not None for job in found] == [False, True]
    assert [len(await CheckpointLog(database, job_id).list_newest_first()) for job_id in jobs] == [
        1,
        0,
    ]
    objects.delete = delete  # type: ignore[method-assign]
    await collector.collect()
    stuck = await load(database, jobs[0])
    assert stuck is not None and stuck.collected_at is not None
    assert await CheckpointLog(database, jobs[0]).list_newest_first() == []
    assert not list((tmp_path / "objects").rglob("1-00000001-*"))


@pytest.mark.postgres
async def test_a_log_is_read_the_same_way_wherever_it_lies(
    database: Database, tmp_path: Path
) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    collector = JobCollector(database, objects, 30 * DAY_S)
    job, seen, keys = await submit(database), list[str](), list[str]()

    async def read(after: int = 0) -> list[tuple[int, str]]:
        found = await logs(database, job.id, after, objects)
        return [(chunk.seq, chunk.text) for chunk in found]

    for words in ("one\n", "two\u2028\n"):
        lease, _ = await JobLease.claim(database, job.id)
        await lease.log(words)
        await lease.fail({"code": "x", "message": "y"})
        seen.append(words)
        before = await logs(database, job.id, objects=objects)
        await _ended_ago(database, job.id, 120)
        await collector.collect()
        assert await logs(database, job.id, objects=objects) == before, "times included"
        assert await read() == list(enumerate(seen, start=1))
        async with database.begin() as db:
            assert (await db.execute(text("SELECT count(*) FROM job_logs"))).scalar() == 0
        found = await load(database, job.id)
        assert found is not None and found.log_key is not None
        keys.append(found.log_key)
        await resume(database, job.id)
        assert await read() == list(enumerate(seen, start=1)), "a resumed one's too"
    assert [await objects.exists(key) for key in keys] == [False, True]
    lease, _ = await JobLease.claim(database, job.id)
    await lease.log("three\n")
    assert await read(after=1) == [(2, "two\u2028\n"), (3, "three\n")]
    assert await read(after=2) == [(3, "three\n")]
    reader = JobLogs(database, objects, CALLER)
    assert [chunk.seq for chunk in await reader.read(job.id, after=0, limit=2)] == [1, 2]
    with pytest.raises(NotFound, match="there is no job"):
        await JobLogs(database, objects, principal()).read(job.id, after=0, limit=2)
    await objects.delete(keys[1])
    lost = (2, "(the log up to here is not in the object store any more)\n")
    assert await read() == [lost, (3, "three\n")]
    await lease.fail({"code": "x", "message": "y"})
    await _ended_ago(database, job.id, 120)
    await collector.collect()
    assert await read() == [lost, (3, "three\n")], "and it is archived again"


@pytest.mark.postgres
async def test_a_job_that_was_resumed_since_it_was_listed_keeps_its_checkpoints(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    job = await submit(database)
    lease, _ = await JobLease.claim(database, job.id)
    remote = RemoteCheckpoints(database, objects, job.id, lease.fence)
    await remote.save(checkpoint(1), tmp_path / "scratch")
    await lease.fail({"code": "x", "message": "y"})
    await _ended_ago(database, job.id, 31 * DAY_S)
    resumed: list[UUID] = []

    async def list_and_resume(*args: Any, **options: Any) -> list[Job]:
        found = await list_collectable_jobs(*args, **options)
        for each in found:
            await resume(database, each.id)
            resumed.append(each.id)
        return found

    name = "foundry.execution.workers.job_collector.list_collectable_jobs"
    monkeypatch.setattr(name, list_and_resume)
    await JobCollector(database, objects, 30 * DAY_S).collect()
    assert resumed == [job.id]
    assert len(objects_of(tmp_path)) == 1
    # And what its next attempt writes is not the ended one's to remove.
    later, _ = await JobLease.claim(database, job.id)
    await RemoteCheckpoints(database, objects, job.id, later.fence).save(
        checkpoint(2), tmp_path / "scratch"
    )
    assert await remote.prune(0)
    assert [name[:10] for name in objects_of(tmp_path)] == ["2-00000002"]


@pytest.mark.postgres
async def test_an_archived_log_counts_towards_the_bound(database: Database, tmp_path: Path) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    job = await submit(database)
    for _ in range(2):
        lease, _ = await JobLease.claim(database, job.id)
        await lease.log("x" * (3 * 2**20))
        await lease.fail({"code": "x", "message": "y"})
        await _ended_ago(database, job.id, 120)
        await JobCollector(database, objects, 30 * DAY_S).collect()
        await resume(database, job.id)
    told = "".join(chunk.text for chunk in await logs(database, job.id, objects=objects))
    assert told.endswith("a job keeps its first 4 MiB\n")
    assert len(told) < MAX_LOG_BYTES + 2 * MAX_LOG_CHUNK_BYTES


@pytest.mark.postgres
async def test_a_job_that_is_resumed_while_its_log_is_archived_keeps_its_rows(
    database: Database, tmp_path: Path
) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    job = await submit(database)
    lease, _ = await JobLease.claim(database, job.id)
    await lease.log("one\n")
    await lease.fail({"code": "x", "message": "y"})
    listed = await load(database, job.id)
    assert listed is not None
    await resume(database, job.id)
    assert not await archive_log(database, objects, listed)
    assert objects_of(tmp_path) == []
    assert [chunk.text for chunk in await logs(database, job.id, objects=objects)] == ["one\n"]


@pytest.mark.postgres
async def test_a_page_full_of_jobs_that_fail_hides_none_behind_it(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry.execution.jobs.retention._BATCH", 1)
    objects = DirectoryStore(tmp_path / "objects")
    jobs = []
    for hours in (3, 2, 1):
        job = await submit(database, f"ended-{hours}")
        lease, _ = await JobLease.claim(database, job.id)
        await lease.log(f"{hours}\n")
        await lease.fail({"code": "x", "message": "y"})
        await _ended_ago(database, job.id, hours * 3600)
        jobs.append(job.id)
    put = objects.put_bytes

    async def refuse(key: str, data: bytes) -> None:
        if str(jobs[0]) in key:
            raise Unavailable("the store refuses it")
        await put(key, data)

    monkeypatch.setattr(objects, "put_bytes", refuse)
    with pytest.raises(Unavailable, match=f"something is left: {jobs[0]}$"):
        await JobCollector(database, objects, 30 * DAY_S).collect()
    found = [await load(database, job_id) for job_id in jobs]
    assert [job is not None and job.log_key is not None for job in found] == [False, True, True]


@pytest.mark.postgres
async def test_a_fleets_checkpoints_go_when_nobody_can_resume(
    database: Database, tmp_path: Path
) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    job = await submit(database)
    async with database.begin() as db:
        await db.execute(text("UPDATE jobs SET kind = 'diloco'"))
    lease, _ = await JobLease.claim(database, job.id)
    fleet = FleetLog(database, job.id, lease.fence)
    await fleet.commit(committed(1))
    shared, own = (StoredState(f"fleets/{job.id}/{name}", name) for name in ("shared", "own"))
    for stored in (shared, own):
        await objects.put_bytes(stored.object_key, b"x")
    state = FleetState(Ledger(40, 8, (), {}), shared, {"w0": own}, 1)
    await fleet.keep(1, state.document())
    await lease.fail({"code": "x", "message": "y"})
    collector = JobCollector(database, objects, 30 * DAY_S)
    await _ended_ago(database, job.id, DAY_S)
    await collector.collect()
    assert len(await fleet.checkpoints()) == 1, "it can be resumed"
    assert await objects.exists(own.object_key)
    await _ended_ago(database, job.id, 31 * DAY_S)
    await collector.collect()
    assert await fleet.checkpoints() == []
    assert [await objects.exists(stored.object_key) for stored in (shared, own)] == [False, False]
