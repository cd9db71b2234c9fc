"""What the supervisor asks and writes; level-triggered, safe to run twice.

An attempt is opened in the row, submitted to Ray and confirmed in the row. A supervisor that dies
in between leaves an unconfirmed attempt, which the next pass submits again under the same id: Ray
starts it once. An attempt that Ray refuses is withdrawn and counts for nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func

from foundry.execution.jobs.admission import Decision, Needs, Waiting
from foundry.execution.jobs.documents import storable_document
from foundry.execution.jobs.domain import (
    ACTIVE,
    LEASE_S,
    LEASED,
    MAX_FAILURES,
    QUIET_S,
    START_S,
    STOP_GRACE_S,
    UNCONFIRMED_S,
    JobState,
    submission_id,
)
from foundry.execution.jobs.logs import append_text
from foundry.execution.jobs.repository import Leases
from foundry.execution.jobs.tables import Job
from foundry.infra.database import Database, utcnow

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
        leases = Leases(db)
        for job_id in decision.admitted:
            await leases.move(job_id, {JobState.QUEUED}, state=JobState.ADMITTED, waiting_for=None)
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
        leases = Leases(db)
        job = await leases.get(listed.id)
        if job is None or job.cancel_requested:
            return None
        unconfirmed = job.submission_id is not None and job.submitted_at is None
        attempt = job.attempt if unconfirmed else job.attempt + 1
        return await leases.move(
            job.id,
            {JobState.ADMITTED, JobState.STARTING},
            held=listed.fence,
            # The driver of an earlier attempt, should one still live, can write no more.
            fence=Job.fence + 1,
            state=JobState.STARTING,
            attempt=attempt,
            submission_id=submission_id(job.id, attempt),
            submitted_at=None,
            heartbeat_at=func.now(),
            phase=None,
            progress_at=None,
            waiting_for=None,
        )


async def confirm_attempt(database: Database, job: Job) -> None:
    """Ray has the driver; from now on the attempt counts."""
    async with database.begin() as db:
        await Leases(db).move(job.id, LEASED, named=job.submission_id, submitted_at=func.now())


async def withdraw_attempt(database: Database, job: Job, reason: str) -> Job | None:
    """Ray did not take the driver: the job keeps its place, and the attempt does not count.

    None: a driver has claimed the job, so Ray did take it.
    """
    async with database.begin() as db:
        return await Leases(db).move(
            job.id,
            {JobState.STARTING},
            held=job.fence,
            state=JobState.ADMITTED,
            waiting_for=reason,
        )


async def expire_leases(
    database: Database,
    older_than_s: float = LEASE_S,
    starting_s: float = START_S,
    slack_s: float = _WATCHDOG_SLACK_S,
) -> list[Job]:
    """Mark the jobs of silent drivers and hung workers STALLED; their drivers lose the lease."""
    async with database.begin() as db:
        leases = Leases(db)
        silent = list(await leases.lock_silent(older_than_s, starting_s))
        for job in silent:
            _stall(job, f"the driver of attempt {job.attempt} fell silent")
        await db.flush()
        hung = list(await leases.lock_hung(slack_s))
        for job in hung:
            _stall(
                job,
                f"attempt {job.attempt} showed nothing new for {job.progress_allowance_s:.0f} s "
                f"in its phase {job.phase!r}: it hung",
            )
        await db.flush()
        return [*silent, *hung]


async def mark_stalled(database: Database, job: Job, message: str) -> Job | None:
    """Ray says that the driver of a job has ended, and the row says that it runs.

    None: it has renewed its lease or ended the job meanwhile.
    """
    async with database.begin() as db:
        found = await Leases(db).move(
            job.id, LEASED, held=job.fence, named=job.submission_id, fence=Job.fence
        )
        if found is None or found.heartbeat_at != job.heartbeat_at:
            return None
        _stall(found, message)
        await db.flush()
        return found


async def settle_stalled(database: Database, listed: Job, error: Error) -> Job | None:
    """The attempt of a STALLED job is seen ended: queue the job again, or fail it for good.

    Args:
        listed: as it was seen; None is returned if somebody has acted since.
        error: what to tell if nothing was recorded, with the last log lines.
    """
    async with database.begin() as db:
        leases = Leases(db)
        job = await leases.move(
            listed.id, {JobState.STALLED}, held=listed.fence, fence=Job.fence + 1
        )
        if job is None:
            return None
        told = storable_document({**error, **(job.error or {})})
        failed = job.failures >= MAX_FAILURES
        job.error, job.heartbeat_at, job.phase, job.progress_at = told, None, None, None
        if failed:
            job.state, job.finished_at = JobState.FAILED.value, utcnow()
            told["message"] = f"{told['message']}; it was the last of {job.failures} attempts"
            job.error = dict(told)
        else:
            job.state = JobState.QUEUED.value
            job.waiting_for = "its next attempt"
        await db.flush()
        verdict = "the job has failed" if failed else "another attempt follows"
        await append_text(leases, job, f"attempt {job.attempt}: {told['message']}; {verdict}\n")
        return job


async def mark_failed(database: Database, job_id: UUID, code: str, message: str) -> Job | None:
    """End a job whose driver cannot; the fence grows, so a driver that still lives is stopped."""
    error = storable_document({"code": code, "message": message})
    async with database.begin() as db:
        return await _end(Leases(db), job_id, JobState.FAILED, error=error)


async def mark_cancelled(database: Database, listed: Job) -> Job | None:
    """End a job that was asked to stop and whose driver is seen ended.

    None: it has ended, or was resumed meanwhile; the request was not for its next attempt.
    """
    async with database.begin() as db:
        return await _end(
            Leases(db),
            listed.id,
            JobState.CANCELLED,
            named=listed.submission_id,
            cancelling=True,
        )


async def load(database: Database, job_id: UUID) -> Job | None:
    async with database.begin() as db:
        return await Leases(db).get(job_id)


def _stall(job: Job, message: str) -> None:
    """The attempt is over: its driver loses the lease, and the failure counts."""
    job.state = JobState.STALLED.value
    job.fence += 1
    job.failures += 1
    job.error = storable_document(
        {"code": "engine_failed", "message": message, "attempt": job.attempt}
    )


async def _end(leases: Leases, job_id: UUID, state: JobState, **how: Any) -> Job | None:
    return await leases.move(
        job_id, ACTIVE, state=state, fence=Job.fence + 1, finished_at=func.now(), **how
    )
