"""A job's attempts as the supervisor sees them, on a real PostgreSQL and a scripted cluster."""

from contextlib import suppress

import pytest
from sqlalchemy import text

from foundry.errors import LeaseLost
from foundry.execution.jobs.domain import MAX_FAILURES, JobState, Phase
from foundry.execution.jobs.leases import JobLease
from foundry.infra.database import Database, utcnow
from foundry.supervisor.jobs import JobReconciler
from foundry.supervisor.ports import DriverObservation
from tests.execution.jobs.test_leases import cancel, logs, resume, submit
from tests.supervisor.tower import Tower

pytestmark = pytest.mark.postgres

STORE_AWAY: dict[str, object] = {
    "code": "unavailable",
    "message": "the store is away",
    "attempt": 1,
}
RAY_SAYS = [
    TimeoutError("ran out of time"),
    KeyError("job"),
    RuntimeError("Request failed with status code 500: oops."),
    ConnectionError("Failed to connect to Ray at address: http://127.0.0.1:8265."),
]


async def test_a_queued_job_is_admitted_and_submitted_once(database: Database) -> None:
    tower, job = Tower(database), await submit(database)
    await tower.reconcile(4)
    assert tower.launcher.submitted == [(f"fj-{job.id}-1", job.id)]
    found = await tower.job(job.id)
    assert (found.state, found.attempt, found.failures) == (JobState.STARTING, 1, 0)
    assert found.submitted_at is not None


@pytest.mark.parametrize("fault", RAY_SAYS, ids=lambda fault: type(fault).__name__)
async def test_what_ray_refuses_counts_for_nothing_and_is_tried_again(
    database: Database, fault: Exception
) -> None:
    tower, job = Tower(database), await submit(database)
    tower.launcher.faults["submit"] = fault
    await tower.reconcile(2)
    refused = await tower.job(job.id)
    assert (refused.state, refused.attempt, refused.failures) == (JobState.ADMITTED, 1, 0)
    assert refused.waiting_for == "Ray, which did not take its driver: trying again"
    tower.launcher.faults.clear()
    await tower.reconcile()
    assert tower.launcher.submitted == [], "its step waits before it is tried again"
    tower.now += 2
    await tower.reconcile()
    assert tower.launcher.submitted == [(f"fj-{job.id}-1", job.id)]
    found = await tower.job(job.id)
    assert (found.attempt, found.failures, found.waiting_for) == (1, 0, None)


async def test_failures_of_a_job_that_is_gone_are_forgotten(database: Database) -> None:
    tower, job = Tower(database), await submit(database)
    tower.launcher.faults["submit"] = RAY_SAYS[0]
    await tower.reconcile(2)
    assert tower.reconciler.tasks.failures_of(job.id) == 1
    await cancel(database, job.id)
    tower.now += 2
    await tower.reconcile()
    assert tower.reconciler.tasks.failures_of(job.id) == 0


async def test_a_supervisor_that_dies_after_opening_an_attempt_submits_it_under_its_id(
    database: Database,
) -> None:
    tower, job = Tower(database), await submit(database)
    await tower.reconcile(2)
    async with database.begin() as db:
        await db.execute(text("UPDATE jobs SET submitted_at = NULL"))
    await tower.age(job.id, "heartbeat_at", 11)
    restarted = Tower(database)
    restarted.launcher = tower.launcher
    restarted.reconciler = JobReconciler(database, tower.launcher, tower.lease, clock=lambda: 5.0)
    await restarted.reconcile()
    assert tower.launcher.submitted == [(f"fj-{job.id}-1", job.id)]
    found = await tower.job(job.id)
    assert (found.attempt, found.submitted_at is not None) == (1, True)


async def test_one_job_that_ray_cannot_stop_holds_up_no_other(database: Database) -> None:
    tower = Tower(database)
    stuck, _ = await tower.running("stuck")
    await cancel(database, stuck.id)
    await tower.age(stuck.id, "cancel_requested_at", 61)
    tower.launcher.faults["end"] = RuntimeError("Request failed with status code 500: oops.")
    silent, _ = await tower.running("silent")
    await tower.age(silent.id, "heartbeat_at", 31)
    other = await submit(database, "other")
    await tower.reconcile(2)
    assert (await tower.job(silent.id)).state == JobState.STALLED
    assert (await tower.job(other.id)).state == JobState.STARTING
    assert (await tower.job(stuck.id)).state == JobState.RUNNING
    tower.launcher.faults.clear()
    tower.now += 60
    await tower.reconcile()
    assert (await tower.job(stuck.id)).state == JobState.CANCELLED


async def test_the_next_attempt_begins_when_the_one_before_is_seen_ended(
    database: Database,
) -> None:
    tower = Tower(database)
    job, _ = await tower.running()
    await tower.age(job.id, "heartbeat_at", 31)
    tower.launcher.faults["end"] = TimeoutError("it has not ended")
    await tower.reconcile(3)
    stalled = await tower.job(job.id)
    assert (stalled.state, stalled.attempt) == (JobState.STALLED, 1)
    assert [name for name, _ in tower.launcher.submitted] == [f"fj-{job.id}-1"]
    tower.launcher.faults.clear()
    for _ in range(4):
        tower.now += 60
        await tower.skip_delays()
        await tower.reconcile()
    assert tower.launcher.ended[0] == f"fj-{job.id}-1"
    assert [name for name, _ in tower.launcher.submitted] == [f"fj-{job.id}-1", f"fj-{job.id}-2"]


async def test_an_attempt_that_failed_is_followed_after_a_delay(database: Database) -> None:
    tower = Tower(database)
    job, lease = await tower.running()
    await lease.give_up({"code": "unavailable", "message": "the store is away"})
    await tower.reconcile(4)
    waiting = await tower.job(job.id)
    assert (waiting.state, len(tower.launcher.submitted)) == (JobState.QUEUED, 1)
    assert waiting.waiting_for in {
        f"its next attempt, {seconds} s after the one that failed" for seconds in (4, 5, 6)
    }
    assert waiting.retry_at is not None
    assert (waiting.retry_at - utcnow()).total_seconds() <= 6.25
    await tower.age(job.id, "retry_at", 0)
    await tower.reconcile(2)
    again = await tower.job(job.id)
    assert (again.state, again.attempt, again.retry_at) == (JobState.STARTING, 2, None)


async def test_whoever_resumes_a_job_waits_for_no_delay(database: Database) -> None:
    tower = Tower(database)
    job, lease = await tower.running()
    await lease.give_up({"code": "unavailable", "message": "the store is away"})
    await tower.reconcile(2)
    await cancel(database, job.id)
    resumed = await resume(database, job.id)
    assert (resumed.retry_at, resumed.waiting_for) == (None, None)
    await tower.reconcile(2)
    assert (await tower.job(job.id)).state == JobState.STARTING


async def test_the_third_failure_ends_a_job_with_its_reason_and_resume_counts_anew(
    database: Database,
) -> None:
    tower, job = Tower(database), await submit(database)
    for _ in range(MAX_FAILURES):
        await tower.skip_delays()
        await tower.reconcile(3)
        started = await tower.job(job.id)
        assert started.submission_id is not None
        await JobLease.claim(database, job.id, started.submission_id)
        tower.launcher.drivers[started.submission_id] = DriverObservation(
            "ended", "Job entrypoint command failed", 137, ("loading", "Killed")
        )
        await tower.age(job.id, "heartbeat_at", 21)
        await tower.reconcile(2)
    failed = await tower.job(job.id)
    assert (failed.state, failed.attempt, failed.failures) == (JobState.FAILED, 3, 3)
    assert failed.error == {
        "code": "engine_failed",
        "message": "the driver of attempt 3 ended without a word, by signal 9 (killed: was there "
        "enough memory?); it was the last of 3 attempts",
        "attempt": 3,
        "log": ["loading", "Killed"],
    }
    told = "".join(chunk.text for chunk in await logs(database, job.id))
    assert told.count("another attempt follows") == 2
    assert (await resume(database, job.id)).failures == 0
    await tower.reconcile(3)
    again = await tower.job(job.id)
    assert (again.state, again.attempt, again.failures) == (JobState.STARTING, 4, 0)


async def test_a_driver_that_gave_up_is_followed_by_another_that_sees_no_old_error(
    database: Database,
) -> None:
    tower = Tower(database)
    job, lease = await tower.running()
    await lease.give_up(STORE_AWAY)
    assert (await tower.job(job.id)).state == JobState.STALLED
    await tower.reconcile()
    queued = await tower.job(job.id)
    assert (queued.state, queued.failures) == (JobState.QUEUED, 1)
    assert queued.error is not None
    assert queued.error["message"] == "the store is away"
    await tower.skip_delays()
    await tower.reconcile(2)
    started = await tower.job(job.id)
    lease, claimed = await JobLease.claim(database, job.id, started.submission_id)
    assert (claimed.attempt, claimed.error) == (2, None)


async def test_a_driver_that_came_back_is_ended_before_the_next_begins(
    database: Database,
) -> None:
    """Ray had said that it was gone: its node was away for a while."""
    tower = Tower(database)
    job, lease = await tower.running()
    await lease.give_up(STORE_AWAY)
    await tower.reconcile()
    tower.launcher.ended.clear()
    tower.launcher.drivers[f"fj-{job.id}-1"] = DriverObservation("running")
    await tower.skip_delays()
    await tower.reconcile(2)
    assert tower.launcher.ended == [f"fj-{job.id}-1"]
    assert tower.launcher.submitted[-1] == (f"fj-{job.id}-2", job.id)


async def test_a_hung_attempt_is_found_by_the_databases_clock(database: Database) -> None:
    tower = Tower(database)
    job, lease = await tower.running()
    await lease.advance(Phase.TRAIN, 120.0)
    await tower.age(job.id, "progress_at", 149)
    await tower.reconcile()
    assert (await tower.job(job.id)).state == JobState.RUNNING
    await tower.age(job.id, "progress_at", 151)
    await tower.reconcile()
    hung = await tower.job(job.id)
    assert hung.state in (JobState.STALLED, JobState.QUEUED)
    assert hung.error is not None
    assert "nothing new for 120 s in its phase 'train'" in str(hung.error["message"])


async def test_a_worker_that_waits_for_room_is_not_hung(database: Database) -> None:
    tower = Tower(database)
    job, lease = await tower.running()
    await lease.advance(Phase.PLACE, None)
    await tower.age(job.id, "progress_at", 86_400)
    await tower.reconcile()
    assert (await tower.job(job.id)).state == JobState.RUNNING


async def test_a_driver_that_dies_before_it_claims_is_noticed_in_seconds(
    database: Database,
) -> None:
    tower, job = Tower(database), await submit(database)
    await tower.reconcile(2)
    tower.launcher.drivers[f"fj-{job.id}-1"] = DriverObservation("ended", "failed", 1)
    await tower.reconcile()
    assert (await tower.job(job.id)).state == JobState.STARTING
    await tower.age(job.id, "heartbeat_at", 21)
    await tower.reconcile()
    lost = await tower.job(job.id)
    assert lost.state in (JobState.STALLED, JobState.QUEUED)
    assert lost.error is not None
    assert lost.error["message"] == "the driver of attempt 1 ended without a word, with exit code 1"


async def test_a_quiet_driver_that_ray_shows_alive_keeps_its_lease(database: Database) -> None:
    tower = Tower(database)
    job, lease = await tower.running()
    await tower.age(job.id, "heartbeat_at", 25)
    await tower.reconcile()
    assert (await tower.job(job.id)).state == JobState.RUNNING
    assert await lease.heartbeat() is False


async def test_a_job_that_ignores_a_cancel_is_ended_after_the_grace(database: Database) -> None:
    tower = Tower(database)
    job, _ = await tower.running()
    await cancel(database, job.id)
    await tower.age(job.id, "cancel_requested_at", 59)
    await tower.reconcile()
    assert tower.launcher.ended == []
    await tower.age(job.id, "cancel_requested_at", 61)
    await tower.reconcile()
    assert (await tower.job(job.id)).state == JobState.CANCELLED
    assert tower.launcher.ended == [f"fj-{job.id}-1"]


async def test_a_stalled_job_that_is_cancelled_ends_with_its_driver(database: Database) -> None:
    tower = Tower(database)
    job, _ = await tower.running()
    await tower.age(job.id, "heartbeat_at", 31)
    tower.launcher.faults["end"] = TimeoutError()
    await tower.reconcile()
    assert (await cancel(database, job.id)).row.state == JobState.STALLED
    tower.launcher.faults.clear()
    # At once: what the owner wants does not wait for the backoff of what the supervisor wanted.
    await tower.reconcile()
    assert (await tower.job(job.id)).state == JobState.CANCELLED
    assert tower.launcher.ended == [f"fj-{job.id}-1"]


async def test_a_late_driver_of_an_older_attempt_gets_nothing(database: Database) -> None:
    tower = Tower(database)
    job, _ = await tower.running()
    await tower.age(job.id, "heartbeat_at", 31)
    await tower.reconcile()
    await tower.skip_delays()
    await tower.reconcile(2)
    assert (await tower.job(job.id)).submission_id == f"fj-{job.id}-2"
    with pytest.raises(LeaseLost, match="attempt 2"):
        await JobLease.claim(database, job.id, f"fj-{job.id}-1")


async def test_a_driver_that_came_by_itself_is_replaced_only_when_it_dies(
    database: Database,
) -> None:
    tower, job = Tower(database), await submit(database, submission_id="by-hand")
    assert (job.state, job.attempt) == (JobState.STARTING, 1)
    tower.launcher.drivers["by-hand"] = DriverObservation("running")
    await tower.reconcile()
    assert tower.launcher.submitted == []
    await JobLease.claim(database, job.id, "by-hand")
    await tower.age(job.id, "heartbeat_at", 31)
    await tower.reconcile()
    await tower.skip_delays()
    await tower.reconcile(2)
    assert tower.launcher.ended[0] == "by-hand"
    assert tower.launcher.submitted == [(f"fj-{job.id}-2", job.id)]


async def test_leases_get_time_to_renew_after_an_outage(database: Database) -> None:
    tower = Tower(database)
    job, lease = await tower.running()
    tower.reconciler.note_outage()
    await tower.age(job.id, "heartbeat_at", 3600)
    tower.launcher.drivers.clear()
    await tower.reconcile()
    assert await lease.heartbeat() is False
    tower.now += 30
    await tower.reconcile()
    assert (await tower.job(job.id)).state == JobState.RUNNING


async def test_an_outage_gives_half_a_minute_and_no_more(database: Database) -> None:
    tower = Tower(database)
    job, _ = await tower.running()
    tower.reconciler.note_outage()
    await tower.age(job.id, "heartbeat_at", 3600)
    tower.now += 29.9
    await tower.reconcile()
    assert (await tower.job(job.id)).state == JobState.RUNNING
    tower.now += 0.1
    await tower.reconcile()
    # Its lease has expired, and Ray knows no driver: it is tried again.
    assert (await tower.job(job.id)).state == JobState.QUEUED


@pytest.mark.parametrize("state", ["ADMITTED", "STALLED", "RUNNING", "silent"])
async def test_a_supervisor_that_lost_its_lease_starts_and_ends_nothing(
    database: Database, state: str
) -> None:
    tower = Tower(database)
    if state == "ADMITTED":
        job = await submit(database)
        await tower.reconcile()
    else:
        job, lease = await tower.running()
        if state == "STALLED":
            await lease.give_up({"code": "unavailable", "message": "the store is away"})
        elif state == "RUNNING":
            await cancel(database, job.id)
            await tower.age(job.id, "cancel_requested_at", 61)
        else:
            await tower.age(job.id, "heartbeat_at", 31)
    before = (await tower.job(job.id)).state
    launched = len(tower.launcher.submitted)
    # As of a laptop that was asleep when the pass began: it still believes in its lease.
    tower.lease.lost = True
    with suppress(LeaseLost):
        await tower.reconcile()
    tower.reconciler.note_outage()
    await tower.reconcile()
    assert (len(tower.launcher.submitted), tower.launcher.ended) == (launched, [])
    now = (await tower.job(job.id)).state
    # An attempt that was opened and not submitted is submitted by whoever acts.
    assert now == ("STARTING" if before == "ADMITTED" else before)
    tower.lease.lost = False
    tower.now += 120
    await tower.age(job.id, "heartbeat_at", 31)
    await tower.reconcile()
    assert tower.launcher.submitted if state == "ADMITTED" else tower.launcher.ended
