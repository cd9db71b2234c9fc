"""What the supervisor asks and writes; level-triggered, safe to run twice.

An attempt is opened in the row, submitted to Ray and confirmed in the row. A supervisor that dies
in between leaves an unconfirmed attempt, which the next pass submits again under the same id: Ray
starts it once. An attempt that Ray refuses is withdrawn and counts for nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import func

from foundry.execution.jobs.domain import (
    LEASE_S,
    LEASED,
    QUIET_S,
    START_S,
    STOP_GRACE_S,
    UNCONFIRMED_S,
    JobState,
)
from foundry.execution.jobs.logs import append_text
from foundry.execution.jobs.placement import Decision, Needs, Waiting
from foundry.execution.jobs.repository import Leases
from foundry.execution.jobs.tables import Job
from foundry.execution.jobs.transitions import JobTransitions
from foundry.infra.database import Database

_BATCH = 100
# Of the queue one pass weighs so many; only what decides is read of them.
QUEUE_WINDOW = 1000
# The driver's own watchdog is first: it can dump the stacks of its workers.
_WATCHDOG_SLACK_S = 30.0

Error = Mapping[str, object]


async def list_queue(
    database: Database, after: Waiting | None = None, limit: int = QUEUE_WINDOW
) -> list[Waiting]:
    """Jobs that wait to be admitted, by priority, then age.

    Args:
        after: the last one that was read.
    """
    place = (after.priority, after.id) if after is not None else None
    async with database.begin() as db:
        return [
            Waiting(row.id, Needs.read(row.needs), row.priority, row.waiting_for)
            for row in await Leases(db).list_queued(place, limit)
        ]


async def list_reservations(database: Database) -> list[Needs]:
    """Needs of admitted jobs that Ray's numbers may not show yet."""
    async with database.begin() as db:
        return [Needs.read(job.needs) for job in await Leases(db).list_unplaced()]


async def record_decision(
    database: Database, decision: Decision, queue: Sequence[Waiting] = ()
) -> None:
    """Admit jobs, and note what the others wait for.

    Args:
        queue: as it was read; words that a job shows already are not written again.
    """
    shown = {job.id: job.waiting_for for job in queue}
    async with database.begin() as db:
        leases, transitions = Leases(db), JobTransitions(db)
        for job_id in decision.admitted:
            await transitions.admit(job_id)
        for job_id, words in decision.waiting.items():
            if shown.get(job_id) != words:
                await leases.move(job_id, {JobState.QUEUED}, waiting_for=words)


async def list_jobs_to_start(
    database: Database, busy: Collection[UUID] = (), limit: int = _BATCH
) -> list[Job]:
    """Admitted jobs, and attempts of which nobody knows whether Ray took them.

    Args:
        busy: jobs whose step runs or waits to be tried again. Leaving them out lets those behind
            them have their turn, however many of them hang.
    """
    async with database.begin() as db:
        leases = Leases(db)
        admitted = await leases.list_in_state(JobState.ADMITTED, busy, limit)
        return [*admitted, *await leases.list_unconfirmed(UNCONFIRMED_S, busy, limit)]


async def list_stalled_jobs(
    database: Database, busy: Collection[UUID] = (), limit: int = _BATCH
) -> list[Job]:
    """Jobs whose attempt is over without an end of the job; `busy`: see `list_jobs_to_start`."""
    async with database.begin() as db:
        return list(await Leases(db).list_in_state(JobState.STALLED, busy, limit))


async def list_quiet_jobs(
    database: Database, busy: Collection[UUID] = (), limit: int = _BATCH
) -> list[Job]:
    """Jobs whose driver may be dead: Ray knows before the lease runs out."""
    async with database.begin() as db:
        return list(await Leases(db).list_quiet(QUIET_S, busy, limit))


async def list_jobs_to_stop(
    database: Database,
    grace_s: float = STOP_GRACE_S,
    busy: Collection[UUID] = (),
    limit: int = _BATCH,
) -> list[Job]:
    """Jobs that were asked to stop and whose driver will not do it."""
    async with database.begin() as db:
        return list(await Leases(db).list_to_stop(grace_s, busy, limit))


async def open_attempt(database: Database, listed: Job) -> Job | None:
    """Make the job STARTING under the id to submit; call it before submitting.

    Args:
        listed: as it was seen; None is returned if somebody has acted since.
    """
    async with database.begin() as db:
        job = await Leases(db).get(listed.id)
        if job is None or job.cancel_requested:
            return None
        unconfirmed = job.submission_id is not None and job.submitted_at is None
        attempt = job.attempt if unconfirmed else job.attempt + 1
        return await JobTransitions(db).open_attempt(listed, attempt=attempt)


async def confirm_attempt(database: Database, job: Job) -> None:
    """Ray has the driver; from now on the attempt counts."""
    async with database.begin() as db:
        await Leases(db).move(job.id, LEASED, named=job.submission_id, submitted_at=func.now())


async def withdraw_attempt(database: Database, job: Job, reason: str) -> Job | None:
    """Ray did not take the driver: the job keeps its place, and the attempt does not count.

    None: a driver has claimed the job, so Ray did take it.
    """
    async with database.begin() as db:
        return await JobTransitions(db).withdraw(job, reason)


async def expire_leases(
    database: Database,
    older_than_s: float = LEASE_S,
    starting_s: float = START_S,
    slack_s: float = _WATCHDOG_SLACK_S,
) -> list[Job]:
    """Mark the jobs of silent drivers and hung workers STALLED; their drivers lose the lease."""
    async with database.begin() as db:
        leases, transitions = Leases(db), JobTransitions(db)
        silent = [
            await transitions.stall(job, f"the driver of attempt {job.attempt} fell silent")
            for job in await leases.lock_silent(older_than_s, starting_s)
        ]
        hung = [
            await transitions.stall(
                job,
                f"attempt {job.attempt} showed nothing new for {job.progress_allowance_s:.0f} s "
                f"in its phase {job.phase!r}: it hung",
            )
            for job in await leases.lock_hung(slack_s)
        ]
        return [job for job in (*silent, *hung) if job is not None]


async def mark_stalled(database: Database, job: Job, message: str) -> Job | None:
    """Ray says that the driver of a job has ended, and the row says that it runs.

    None: it has renewed its lease or ended the job meanwhile.
    """
    async with database.begin() as db:
        return await JobTransitions(db).stall(job, message, unless_heard=True)


async def requeue_or_fail_stalled(database: Database, listed: Job, error: Error) -> Job | None:
    """The attempt of a STALLED job is seen ended: queue the job again, or fail it for good.

    Args:
        listed: as it was seen; None is returned if somebody has acted since.
        error: what to tell if nothing was recorded, with the last log lines.
    """
    async with database.begin() as db:
        job = await JobTransitions(db).requeue_or_fail(listed, error)
        if job is None:
            return None
        failed = job.state == JobState.FAILED
        verdict = "the job has failed" if failed else "another attempt follows"
        message = (job.error or {})["message"]
        await append_text(Leases(db), job, f"attempt {job.attempt}: {message}; {verdict}\n")
        return job


async def mark_cancelled(database: Database, listed: Job) -> Job | None:
    """End a job that was asked to stop and whose driver is seen ended.

    None: it has ended, or was resumed meanwhile; the request was not for its next attempt.
    """
    async with database.begin() as db:
        return await JobTransitions(db).cancel_ended(listed)


async def load(database: Database, job_id: UUID) -> Job | None:
    """A job of whatever tenant."""
    async with database.begin() as db:
        return await Leases(db).get(job_id)
