"""What the supervisor asks and writes; level-triggered, safe to run twice."""

from typing import Any
from uuid import UUID

from sqlalchemy import func

from foundry.execution.jobs.domain import (
    ACTIVE,
    LEASE_S,
    START_S,
    STARTABLE,
    JobState,
    submission_id,
)
from foundry.execution.jobs.repository import Leases
from foundry.execution.jobs.tables import Job
from foundry.infra.database import Database

_BATCH = 100


async def due(database: Database, limit: int = _BATCH) -> list[Job]:
    """Jobs for which a driver is to be started, oldest first."""
    async with database.begin() as db:
        return list(await Leases(db).due(limit))


async def mark_starting(database: Database, job_id: UUID) -> Job | None:
    """Open the next attempt: the job is STARTING and has its submission id.

    Call it before submitting. None: somebody else was faster or the job was cancelled. A driver
    that never claims the job is found by its silence (`expire_leases`).
    """
    async with database.begin() as db:
        leases = Leases(db)
        job = await leases.get(job_id)
        if job is None or job.cancel_requested:
            return None
        attempt = job.attempt + 1
        return await leases.move(
            job_id,
            STARTABLE,
            held=job.fence,
            # The driver of an earlier attempt, should one still live, can write no more.
            fence=Job.fence + 1,
            state=JobState.STARTING,
            attempt=attempt,
            submission_id=submission_id(job_id, attempt),
            heartbeat_at=func.now(),
        )


async def stopping(database: Database, limit: int = _BATCH) -> list[Job]:
    """Active jobs that were asked to stop."""
    async with database.begin() as db:
        return list(await Leases(db).stopping(limit))


async def expire_leases(
    database: Database, older_than_s: float = LEASE_S, starting_s: float = START_S
) -> list[Job]:
    """Mark the jobs of silent drivers STALLED and return them; their drivers lose the lease."""
    async with database.begin() as db:
        return list(await Leases(db).expire(older_than_s, starting_s))


async def mark_failed(database: Database, job_id: UUID, code: str, message: str) -> Job | None:
    """End a job whose driver cannot; the fence grows, so a driver that still lives is stopped."""
    return await _end(database, job_id, JobState.FAILED, error={"code": code, "message": message})


async def mark_cancelled(database: Database, job_id: UUID) -> Job | None:
    return await _end(database, job_id, JobState.CANCELLED)


async def load(database: Database, job_id: UUID) -> Job | None:
    async with database.begin() as db:
        return await Leases(db).get(job_id)


async def _end(database: Database, job_id: UUID, state: JobState, **values: Any) -> Job | None:
    async with database.begin() as db:
        return await Leases(db).move(
            job_id,
            ACTIVE,
            state=state,
            fence=Job.fence + 1,
            finished_at=func.now(),
            **values,
        )
