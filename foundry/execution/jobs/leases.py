"""What the driver of a job may write while it holds the lease."""

import math
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import LeaseLost, NotFound
from foundry.execution.jobs.documents import storable_document
from foundry.execution.jobs.domain import (
    LEASED,
    WAITING,
    JobState,
    Phase,
)
from foundry.execution.jobs.logs import append_text
from foundry.execution.jobs.repository import Leases
from foundry.execution.jobs.tables import Job
from foundry.infra.database import Database

# Nobody drives it; a test or a person may.
_UNLED = WAITING | {JobState.STALLED}


class JobLease:
    """One attempt's right to write to its job; a newer attempt's fence ends it.

    Every method raises LeaseLost once another attempt has taken over: the driver must stop.
    """

    def __init__(self, database: Database, job_id: UUID, fence: int) -> None:
        self._database = database
        self._job_id = job_id
        self._fence = fence

    @classmethod
    async def claim(
        cls, database: Database, job_id: UUID, submission_id: str | None = None
    ) -> tuple["JobLease", Job]:
        """Take the job over; earlier holders lose their lease at once.

        Args:
            submission_id: of the Ray job that asks. A driver that comes late, when another attempt
                has been opened, gets nothing. None: there is no Ray job, as in a test.

        Raises:
            NotFound: there is no such job.
            LeaseLost: it has ended, was cancelled or belongs to another attempt.
        """
        states = LEASED | {JobState.ADMITTED} if submission_id else LEASED | _UNLED
        async with database.begin() as db:
            leases = Leases(db)
            job = await leases.move(
                job_id,
                states,
                named=submission_id,
                state=JobState.RUNNING,
                fence=Job.fence + 1,
                heartbeat_at=func.now(),
                submitted_at=func.coalesce(Job.submitted_at, func.now()),
                started_at=func.coalesce(Job.started_at, func.now()),
                phase=Phase.PLACE,
                progress_at=func.now(),
                progress_allowance_s=None,
                waiting_for=None,
                error=None,
            )
            if job is None:
                found = await leases.get(job_id)
                if found is None:
                    raise NotFound(f"there is no job {job_id}")
                raise LeaseLost(
                    f"job {job_id} is {found.state}, attempt {found.attempt}: "
                    "it cannot be started by this driver"
                )
        return cls(database, job_id, job.fence), job

    @property
    def fence(self) -> int:
        return self._fence

    async def heartbeat(self, progress: dict[str, object] | None = None) -> bool:
        """Say that the driver lives. Returns whether the job shall be cancelled."""
        values: dict[str, object] = {"heartbeat_at": func.now()}
        if progress is not None:
            values["progress"] = storable_document(progress)
        job = await self._write(**values)
        return job.cancel_requested

    async def metrics(self, step: int, values: dict[str, float]) -> None:
        """Store values of one step, the finite ones; the same step again replaces them."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        async with self._database.begin() as db:
            job = await hold(db, self._job_id, self._fence)
            if finite:
                await Leases(db).put_metrics(job, step, finite)

    async def advance(self, phase: Phase, allowance_s: float | None) -> None:
        """Say that the work has made progress.

        Args:
            allowance_s: how long nothing new may come before the attempt counts as hung.
        """
        await self._write(
            heartbeat_at=func.now(),
            phase=phase,
            progress_at=func.now(),
            progress_allowance_s=allowance_s,
        )

    async def log(self, text: str) -> None:
        """Append to the job's log, in chunks of at most 16 KiB and 4 MiB in all."""
        async with self._database.begin() as db:
            leases = Leases(db)
            # Its last words come after its end.
            job = await leases.move(
                self._job_id, frozenset(JobState), held=self._fence, fence=self._fence
            )
            if job is None:
                raise _lost(self._job_id, self._fence)
            await append_text(leases, job, text)

    async def checkpointing(self, active: bool) -> None:
        """Show that a checkpoint is being written, or that training goes on."""
        await self._write(state=JobState.CHECKPOINTING if active else JobState.RUNNING)

    async def finish(self, result: dict[str, object]) -> None:
        await self._end(JobState.SUCCEEDED, result=storable_document(result))

    async def fail(self, error: Mapping[str, object]) -> None:
        """The job cannot succeed, however often it is tried."""
        await self._end(JobState.FAILED, error=storable_document(error))

    async def give_up(self, error: Mapping[str, object]) -> None:
        """This attempt is over; the supervisor ends what is left of it and decides on another."""
        await self._write(
            state=JobState.STALLED,
            failures=Job.failures + 1,
            error=storable_document(error),
        )

    async def cancelled(self) -> None:
        """The driver has stopped because it was asked to."""
        await self._end(JobState.CANCELLED)

    async def _end(self, state: JobState, **values: object) -> None:
        await self._write(state=state, finished_at=func.now(), **values)

    async def _write(self, **values: Any) -> Job:
        async with self._database.begin() as db:
            return await _held(db, self._job_id, self._fence, **values)


async def hold(db: AsyncSession, job_id: UUID, fence: int) -> Job:
    """The job of a driver's lease, which is renewed; nobody takes over before the transaction ends.

    Other slices call it before they write what belongs to the attempt.

    Raises:
        LeaseLost: another attempt has taken over.
    """
    return await _held(db, job_id, fence, heartbeat_at=func.now())


async def _held(db: AsyncSession, job_id: UUID, fence: int, **values: Any) -> Job:
    job = await Leases(db).move(job_id, LEASED, held=fence, **values)
    if job is None:
        raise _lost(job_id, fence)
    return job


def _lost(job_id: UUID, fence: int) -> LeaseLost:
    return LeaseLost(
        f"job {job_id}: another attempt has taken over or the job has ended; stop", fence=fence
    )
