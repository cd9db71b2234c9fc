"""Claims, fences, heartbeats and logs of drivers, on a real PostgreSQL."""

from pathlib import Path
from uuid import UUID

import pytest

from foundry.errors import LeaseLost, NotFound
from foundry.execution.jobs.domain import MAX_LOG_BYTES, MAX_LOG_CHUNK_BYTES, Phase
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.log_archive import JobLogs, LogChunk
from foundry.execution.jobs.placement import Decision, Needs
from foundry.execution.jobs.queue import (
    confirm_attempt,
    list_stalled_jobs,
    load,
    open_attempt,
    record_decision,
    requeue_or_fail_stalled,
)
from foundry.execution.jobs.request import JobRequest
from foundry.execution.jobs.service import Jobs
from foundry.execution.jobs.tables import Job, JobMetric
from foundry.governance.audit.service import AuditTrail
from foundry.infra.answers import Answer
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
        request = JobRequest(
            "sft",
            name,
            {"model": name},
            submission_id=submission_id,
            priority=priority,
            needs=needs or Needs(),
        )
        return await jobs.queue_job(request)


async def start(database: Database, job_id: UUID) -> Job | None:
    """Admit a job and open its next attempt, as the supervisor does."""
    await record_decision(database, Decision((job_id,), {}))
    listed = await load(database, job_id)
    assert listed is not None
    opened = await open_attempt(database, listed)
    if opened is not None:
        await confirm_attempt(database, opened)
    return opened


async def cancel(database: Database, job_id: UUID) -> Answer[Job]:
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
