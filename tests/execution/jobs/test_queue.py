"""What the supervisor finds and writes in the queue, on a real PostgreSQL."""

import asyncio
from uuid import UUID

import pytest

from foundry.errors import Conflict, LeaseLost
from foundry.execution.jobs.domain import JobState, Phase
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.placement import Decision
from foundry.execution.jobs.queue import (
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
from foundry.execution.jobs.request import JobRequest
from foundry.execution.jobs.service import Jobs
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from tests.execution.jobs.test_leases import CALLER, cancel, metrics, resume, start, state, submit

pytestmark = pytest.mark.postgres


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
            request = JobRequest("sft", "bot", {"a": 1})
            same = await jobs.find_same_job(request)
            return (same or await jobs.queue_job(request)).id

    assert len(set(await asyncio.gather(*(once() for _ in range(16))))) == 1


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
    assert (await cancel(database, queued.id)).row.state == "CANCELLED"
    with pytest.raises(LeaseLost, match="CANCELLED"):
        await JobLease.claim(database, queued.id)
    running = await submit(database, "b")
    await start(database, running.id)
    lease, _ = await JobLease.claim(database, running.id)
    asked = await cancel(database, running.id)
    assert (asked.row.state, asked.note) == ("RUNNING", None)
    assert (await cancel(database, running.id)).note == (
        f"job {running.id} is being cancelled already"
    )
    assert [each.id for each in await list_jobs_to_stop(database, 0)] == [running.id]
    assert await lease.heartbeat() is True
    await lease.record_cancelled()
    assert await list_jobs_to_stop(database, 0) == []
    with pytest.raises(Conflict, match="has ended already, it is CANCELLED"):
        await cancel(database, running.id)
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
