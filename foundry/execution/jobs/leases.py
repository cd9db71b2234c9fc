"""What the driver of a job may write while it holds the lease."""

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import LeaseLost, NotFound
from foundry.execution.jobs.documents import storable_document
from foundry.execution.jobs.domain import LEASED, JobState, Phase
from foundry.execution.jobs.logs import append_text
from foundry.execution.jobs.repository import Leases
from foundry.execution.jobs.tables import Job
from foundry.execution.jobs.transitions import JobTransitions
from foundry.infra.database import Database


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
        async with database.begin() as db:
            job = await JobTransitions(db).claim(job_id, submission_id)
            if job is None:
                found = await Leases(db).get(job_id)
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
        job = await self._change(**values)
        return job.cancel_requested

    async def metrics(self, step: int, values: dict[str, float]) -> None:
        """Store values of one step, the finite ones; the same step again replaces them."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        async with self._database.begin() as db:
            job = await renew_lease(db, self._job_id, self._fence)
            if finite:
                await Leases(db).put_metrics(job, step, finite)

    async def advance(self, phase: Phase, allowance_s: float | None) -> None:
        """Say that the work has made progress.

        Args:
            allowance_s: how long nothing new may come before the attempt counts as hung.
        """
        await self._record_transition(
            lambda jobs: jobs.show_phase(self._job_id, self._fence, phase, allowance_s)
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
                raise _make_lost_error(self._job_id, self._fence)
            await append_text(leases, job, text)

    async def finish(self, result: Mapping[str, object]) -> None:
        """The job has succeeded."""
        await self._record_transition(lambda jobs: jobs.succeed(self._job_id, self._fence, result))

    async def fail(self, error: Mapping[str, object]) -> None:
        """The job cannot succeed, however often it is tried."""
        await self._record_transition(lambda jobs: jobs.fail(self._job_id, self._fence, error))

    async def give_up(self, error: Mapping[str, object]) -> None:
        """This attempt is over; the supervisor ends what is left of it and decides on another."""
        await self._record_transition(lambda jobs: jobs.give_up(self._job_id, self._fence, error))

    async def record_cancelled(self) -> None:
        """The driver has stopped because it was asked to."""
        await self._record_transition(lambda jobs: jobs.cancel_driven(self._job_id, self._fence))

    async def _record_transition(
        self, change: Callable[[JobTransitions], Awaitable[Job | None]]
    ) -> None:
        async with self._database.begin() as db:
            if await change(JobTransitions(db)) is None:
                raise _make_lost_error(self._job_id, self._fence)

    async def _change(self, **values: Any) -> Job:
        async with self._database.begin() as db:
            return await _change_held(db, self._job_id, self._fence, **values)


async def renew_lease(db: AsyncSession, job_id: UUID, fence: int) -> Job:
    """The job of a driver's lease, which is renewed; nobody takes over before the transaction ends.

    Other slices call it before they write what belongs to the attempt.

    Raises:
        LeaseLost: another attempt has taken over.
    """
    return await _change_held(db, job_id, fence, heartbeat_at=func.now())


async def _change_held(db: AsyncSession, job_id: UUID, fence: int, **values: Any) -> Job:
    job = await Leases(db).move(job_id, LEASED, held=fence, **values)
    if job is None:
        raise _make_lost_error(job_id, fence)
    return job


def _make_lost_error(job_id: UUID, fence: int) -> LeaseLost:
    return LeaseLost(
        f"job {job_id}: another attempt has taken over or the job has ended; stop", fence=fence
    )
