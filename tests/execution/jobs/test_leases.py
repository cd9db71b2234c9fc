"""Claims, fences, heartbeats and the supervisor's queue, on a real PostgreSQL."""

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from foundry.errors import Conflict, LeaseLost, NotFound
from foundry.execution.jobs.domain import MAX_LOG_BYTES, MAX_LOG_CHUNK_BYTES, JobState, Phase
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.log_archive import JobLogs, LogChunk
from foundry.execution.jobs.placement import Decision, Needs
from foundry.execution.jobs.queue import (
    confirm_attempt,
    expire_leases,
    list_jobs_to_start,
    list_jobs_to_stop,
    list_queue,
    list_stalled_jobs,
    load,
    mark_cancelled,
    open_attempt,
    record_decision,
    requeue_or_fail_stalled,
)
from foundry.execution.jobs.service import Jobs
from foundry.execution.jobs.tables import Job, JobMetric
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.ids import uuid7
from foundry.infra.objects import ObjectStore
from tests.governance.identity.principals import principal

pytestmark = pytest.mark.postgres
CALLER = principal()


async def submit(
    database: Database,
    name: str = "bot",
    submission_id: str | None = None,
    priority: int = 0,
    needs: Needs | None = None,
) -> Job:
    async with database.begin() as db:
        jobs = Jobs(db, AuditTrail(db, CALLER, "test"), CALLER)
        job, created = await jobs.submit(
            "sft",
            name,
            {"model": name},
            submission_id=submission_id,
            priority=priority,
            needs=needs,
        )
        assert created
        return job


async def start(database: Database, job_id: UUID) -> Job | None:
    """Admit a job and open its next attempt, as the supervisor does."""
    await record_decision(database, Decision((job_id,), {}))
    listed = await load(database, job_id)
    assert listed is not None
    opened = await open_attempt(database, listed)
    if opened is not None:
        await confirm_attempt(database, opened)
    return opened


async def cancel(database: Database, job_id: UUID) -> Job:
    async with database.begin() as db:
        return await Jobs(db, AuditTrail(db, CALLER, "test"), CALLER).cancel(job_id)


async def resume(database: Database, job_id: UUID) -> Job:
    async with database.begin() as db:
        return await Jobs(db, AuditTrail(db, CALLER, "test"), CALLER).resume(job_id)


async def metrics(database: Database, job_id: UUID, after: int = -1) -> list[JobMetric]:
    async with database.begin() as db:
        jobs = Jobs(db, AuditTrail(db, CALLER, "test"), CALLER)
        return list(await jobs.metrics(job_id, after=after, limit=1000))


async def logs(
    database: Database, job_id: UUID, after: int = 0, objects: ObjectStore | None = None
) -> list[LogChunk]:
    """A job's log as its owner reads it."""
    reader = JobLogs(database, objects or DirectoryStore(Path("/nowhere")), CALLER)
    return list(await reader.read(job_id, after=after, limit=1000))


async def state(database: Database, job_id: UUID) -> str:
    job = await load(database, job_id)
    assert job is not None
    return job.state


async def test_a_job_from_queue_to_success(database: Database) -> None:
    job = await submit(database)
    assert [each.id for each in await list_queue(database)] == [job.id]
    started = await start(database, job.id)
    assert started is not None
    assert started.submission_id == f"fj-{job.id}-1"
    assert await list_queue(database) == []
    assert await list_jobs_to_start(database) == []
    lease, claimed = await JobLease.claim(database, job.id)
    assert (claimed.state, claimed.attempt) == ("RUNNING", 1)
    assert claimed.started_at is not None
    assert await lease.heartbeat({"step": 1, "total_steps": 2}) is False
    await lease.advance(Phase.CHECKPOINT, 600.0)
    assert await state(database, job.id) == "CHECKPOINTING"
    await lease.advance(Phase.TRAIN, 120.0)
    assert await state(database, job.id) == "RUNNING"
    await lease.metrics(1, {"loss": 2.5, "grad_norm": float("nan")})
    await lease.metrics(1, {"loss": 2.0})
    await lease.metrics(2, {"loss": 1.0})
    assert [(m.step, m.name, m.value) for m in await metrics(database, job.id)] == [
        (1, "loss", 2.0),
        (2, "loss", 1.0),
    ]
    assert [m.step for m in await metrics(database, job.id, after=1)] == [2]
    await lease.finish({"version_id": "v"})
    done = await load(database, job.id)
    assert done is not None
    assert (done.state, done.result) == ("SUCCEEDED", {"version_id": "v"})
    assert done.finished_at is not None
    assert done.progress == {"step": 1, "total_steps": 2}
    with pytest.raises(LeaseLost):
        await lease.heartbeat()


async def test_progress_may_hold_numbers_that_json_does_not_know(database: Database) -> None:
    job = await submit(database)
    lease, _ = await JobLease.claim(database, job.id)
    nan, inf = float("nan"), float("inf")
    await lease.heartbeat({"loss": nan, "fleet": ({"loss": -inf, "round": 3}, {"loss": 2.5})})
    found = await load(database, job.id)
    assert found is not None
    assert found.progress == {
        "loss": None,
        "fleet": [{"loss": None, "round": 3}, {"loss": 2.5}],
    }


# As a driver's last lines may hold it: NUL, and a lone surrogate of undecodable output.
UNSTORABLE: dict[str, object] = {"message": "bad\0\ud800 end", "log": ("a\0", {"k\0": "\udcff"})}
STORED = {"message": "bad? end", "log": ["a", {"k": "?"}]}


async def test_words_that_postgresql_refuses_end_a_job_all_the_same(database: Database) -> None:
    ended = {}
    for name in ("finish", "fail", "settle", "give_up", "heartbeat"):
        job = await submit(database, name)
        lease, _ = await JobLease.claim(database, job.id)
        match name:
            case "finish":
                await lease.finish(UNSTORABLE)
            case "fail":
                await lease.fail(UNSTORABLE)
            case "give_up":
                await lease.give_up(UNSTORABLE)
            case "settle":
                await lease.give_up({"code": "engine_failed"})
                (stalled,) = await list_stalled_jobs(database)
                await requeue_or_fail_stalled(database, stalled, UNSTORABLE)
            case _:
                await lease.heartbeat(UNSTORABLE)
        found = await load(database, job.id)
        assert found is not None
        ended[name] = (found.state, found.result or found.error or found.progress)
    assert ended == {
        "finish": ("SUCCEEDED", STORED),
        "fail": ("FAILED", STORED),
        "give_up": ("STALLED", STORED),
        "settle": ("QUEUED", {"code": "engine_failed", **STORED}),
        "heartbeat": ("RUNNING", STORED),
    }


async def test_one_of_many_supervisors_starts_a_job(database: Database) -> None:
    job = await submit(database)
    await record_decision(database, Decision((job.id,), {}))
    (listed,) = await list_jobs_to_start(database)
    started = await asyncio.gather(*(open_attempt(database, listed) for _ in range(8)))
    assert sum(each is not None for each in started) == 1


async def test_sixteen_equal_submissions_are_one_job(database: Database) -> None:
    async def once() -> UUID:
        async with database.begin() as db:
            jobs = Jobs(db, AuditTrail(db, CALLER, "test"), CALLER)
            return (await jobs.submit("sft", "bot", {"a": 1}))[0].id

    assert len(set(await asyncio.gather(*(once() for _ in range(16))))) == 1


async def test_a_newer_attempt_fences_the_older_one(database: Database) -> None:
    job = await submit(database)
    await start(database, job.id)
    old, _ = await JobLease.claim(database, job.id)
    new, _ = await JobLease.claim(database, job.id)
    assert new.fence == old.fence + 1
    for write in (
        old.heartbeat(),
        old.metrics(1, {"loss": 1.0}),
        old.log("x"),
        old.finish({}),
        old.fail({"code": "x"}),
        old.give_up({"code": "x"}),
        old.advance(Phase.TRAIN, 120.0),
        old.record_cancelled(),
    ):
        with pytest.raises(LeaseLost):
            await write
    assert await metrics(database, job.id) == []
    await new.finish({})


async def test_a_silent_driver_is_found_and_the_job_goes_on(database: Database) -> None:
    job = await submit(database)
    await start(database, job.id)
    zombie, _ = await JobLease.claim(database, job.id)
    assert await expire_leases(database, older_than_s=60) == []
    await asyncio.sleep(0.02)
    assert [each.id for each in await expire_leases(database, older_than_s=0.01)] == [job.id]
    assert await state(database, job.id) == "STALLED"
    with pytest.raises(LeaseLost):
        await zombie.finish({})
    (stalled,) = await list_stalled_jobs(database)
    assert stalled.id == job.id
    assert await requeue_or_fail_stalled(database, stalled, {}) is not None
    again = await start(database, job.id)
    assert again is not None
    assert (again.attempt, again.submission_id) == (2, f"fj-{job.id}-2")
    with pytest.raises(LeaseLost):
        await zombie.heartbeat()
    lease, _ = await JobLease.claim(database, job.id)
    await lease.finish({})


async def test_a_driver_may_take_longer_to_start_than_to_answer(database: Database) -> None:
    job = await submit(database)
    await start(database, job.id)
    await asyncio.sleep(0.02)
    assert await expire_leases(database, older_than_s=0.01) == []
    found = await expire_leases(database, older_than_s=60, starting_s=0.01)
    assert [each.id for each in found] == [job.id]


async def test_cancelling(database: Database) -> None:
    queued = await submit(database, "a")
    assert (await cancel(database, queued.id)).state == "CANCELLED"
    with pytest.raises(LeaseLost, match="CANCELLED"):
        await JobLease.claim(database, queued.id)
    running = await submit(database, "b")
    await start(database, running.id)
    lease, _ = await JobLease.claim(database, running.id)
    assert (await cancel(database, running.id)).state == "RUNNING"
    assert [each.id for each in await list_jobs_to_stop(database, 0)] == [running.id]
    assert await lease.heartbeat() is True
    await lease.record_cancelled()
    assert await list_jobs_to_stop(database, 0) == []
    assert (await cancel(database, running.id)).state == "CANCELLED"
    resumed = await resume(database, running.id)
    assert (resumed.state, resumed.cancel_requested) == (JobState.QUEUED, False)
    with pytest.raises(Conflict, match="is QUEUED"):
        await resume(database, running.id)


async def test_a_request_to_stop_ends_no_later_attempt(database: Database) -> None:
    job = await submit(database)
    await start(database, job.id)
    lease, _ = await JobLease.claim(database, job.id)
    await cancel(database, job.id)
    (listed,) = await list_jobs_to_stop(database, 0)
    # The driver stops by itself and the owner resumes, while the supervisor waits for Ray.
    await lease.record_cancelled()
    await resume(database, job.id)
    assert await mark_cancelled(database, listed) is None
    assert await start(database, job.id) is not None
    assert await mark_cancelled(database, listed) is None
    await cancel(database, job.id)
    assert await mark_cancelled(database, listed) is None, "it was listed for another attempt"
    assert await state(database, job.id) == "STARTING"
    (listed,) = await list_jobs_to_stop(database, 0)
    ended = await mark_cancelled(database, listed)
    assert ended is not None
    assert (ended.state, ended.submission_id) == ("CANCELLED", f"fj-{job.id}-2")


async def test_only_the_attempt_that_was_listed_is_settled(database: Database) -> None:
    job = await submit(database)
    first, _ = await JobLease.claim(database, job.id)
    await first.give_up({"code": "engine_failed", "message": "one"})
    (listed,) = await list_stalled_jobs(database)
    second, _ = await JobLease.claim(database, job.id)
    await second.give_up({"code": "engine_failed", "message": "two"})
    assert await requeue_or_fail_stalled(database, listed, {}) is None
    assert await state(database, job.id) == "STALLED"
    (listed,) = await list_stalled_jobs(database)
    settled = await requeue_or_fail_stalled(database, listed, {})
    assert settled is not None and settled.error is not None
    assert (settled.state, settled.error["message"]) == ("QUEUED", "two")


async def test_there_is_no_lease_of_an_unknown_job(database: Database) -> None:
    with pytest.raises(NotFound):
        await JobLease.claim(database, uuid7())


async def test_logs_are_chunked_and_bounded(database: Database) -> None:
    job = await submit(database)
    await start(database, job.id)
    lease, _ = await JobLease.claim(database, job.id)
    await lease.log("first\n")
    await lease.log("é" * 20_000 + "\0")
    kept = await logs(database, job.id)
    assert "".join(each.text for each in kept) == "first\n" + "é" * 20_000
    assert [each.seq for each in kept] == list(range(1, len(kept) + 1))
    assert max(len(each.text.encode()) for each in kept) <= MAX_LOG_CHUNK_BYTES
    assert [each.seq for each in await logs(database, job.id, after=2)] == [3, 4]
    for _ in range(6):
        await lease.log("x" * 2**20)
    await lease.log("never seen")
    everything = "".join(each.text for each in await logs(database, job.id))
    assert "the log ends here" in everything
    assert "never seen" not in everything
    assert len(everything.encode()) < MAX_LOG_BYTES + 2 * MAX_LOG_CHUNK_BYTES
