"""What the driver of a job may write while it holds the lease."""

import math
from collections.abc import Iterator, Mapping
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import LeaseLost, NotFound
from foundry.execution.jobs.domain import (
    LEASED,
    MAX_LOG_BYTES,
    MAX_LOG_CHUNK_BYTES,
    STARTABLE,
    JobState,
)
from foundry.execution.jobs.repository import Leases
from foundry.execution.jobs.tables import Job
from foundry.infra.database import Database

_CUT = "\n… the log ends here: a job keeps its first 4 MiB\n"


class JobLease:
    """One attempt's right to write to its job; a newer attempt's fence ends it.

    Every method raises LeaseLost once another attempt has taken over: the driver must stop.
    """

    def __init__(self, database: Database, job_id: UUID, fence: int) -> None:
        self._database = database
        self._job_id = job_id
        self._fence = fence

    @classmethod
    async def claim(cls, database: Database, job_id: UUID) -> tuple["JobLease", Job]:
        """Take the job over; earlier holders lose their lease at once.

        Raises:
            NotFound: there is no such job.
            LeaseLost: it has ended or was cancelled; there is nothing to do.
        """
        async with database.begin() as db:
            leases = Leases(db)
            job = await leases.move(
                job_id,
                STARTABLE | LEASED,
                state=JobState.RUNNING,
                fence=Job.fence + 1,
                heartbeat_at=func.now(),
                started_at=func.coalesce(Job.started_at, func.now()),
                error=None,
            )
            if job is None:
                found = await leases.get(job_id)
                if found is None:
                    raise NotFound(f"there is no job {job_id}")
                raise LeaseLost(f"job {job_id} is {found.state}: it cannot be started")
        return cls(database, job_id, job.fence), job

    @property
    def fence(self) -> int:
        return self._fence

    async def heartbeat(self, progress: dict[str, object] | None = None) -> bool:
        """Say that the driver lives. Returns whether the job shall be cancelled."""
        values: dict[str, object] = {"heartbeat_at": func.now()}
        if progress is not None:
            values["progress"] = _storable(progress)
        job = await self._write(**values)
        return job.cancel_requested

    async def metrics(self, step: int, values: dict[str, float]) -> None:
        """Store values of one step, the finite ones; the same step again replaces them."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        async with self._database.begin() as db:
            job = await hold(db, self._job_id, self._fence)
            if finite:
                await Leases(db).put_metrics(job, step, finite)

    async def log(self, text: str) -> None:
        """Append to the job's log, in chunks of at most 16 KiB and 4 MiB in all."""
        async with self._database.begin() as db:
            leases = Leases(db)
            job = await hold(db, self._job_id, self._fence)
            seq, used = await leases.log_place(self._job_id)
            for chunk in _chunks(text.replace("\0", "")):
                if used >= MAX_LOG_BYTES:
                    return
                used += len(chunk.encode())
                seq += 1
                full = used >= MAX_LOG_BYTES
                await leases.add_log(job, seq, chunk + _CUT if full else chunk)

    async def checkpointing(self, active: bool) -> None:
        """Show that a checkpoint is being written, or that training goes on."""
        await self._write(state=JobState.CHECKPOINTING if active else JobState.RUNNING)

    async def finish(self, result: dict[str, object]) -> None:
        await self._end(JobState.SUCCEEDED, result=result)

    async def fail(self, code: str, message: str) -> None:
        await self._end(JobState.FAILED, error={"code": code, "message": message})

    async def cancelled(self) -> None:
        """The driver has stopped because it was asked to."""
        await self._end(JobState.CANCELLED)

    async def _end(self, state: JobState, **values: object) -> None:
        await self._write(state=state, finished_at=func.now(), **values)

    async def _write(self, **values: object) -> Job:
        async with self._database.begin() as db:
            return await _held(db, self._job_id, self._fence, **values)


async def hold(db: AsyncSession, job_id: UUID, fence: int) -> Job:
    """The job of a driver's lease, which is renewed; nobody takes over before the transaction ends.

    Other slices call it before they write what belongs to the attempt.

    Raises:
        LeaseLost: another attempt has taken over.
    """
    return await _held(db, job_id, fence, heartbeat_at=func.now())


async def _held(db: AsyncSession, job_id: UUID, fence: int, **values: object) -> Job:
    job = await Leases(db).move(job_id, LEASED, held=fence, **values)
    if job is None:
        raise LeaseLost(
            f"job {job_id}: another attempt has taken over or the job has ended; stop", fence=fence
        )
    return job


def _storable(value: object) -> object:
    """The same document without NaN and infinity, which JSON does not know: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _storable(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    return value


def _chunks(text: str) -> Iterator[str]:
    """Pieces of at most 16 KiB in UTF-8, never cut inside a character."""
    # A lone surrogate, from undecodable output, cannot be stored.
    data = text.encode("utf-8", errors="replace")
    start = 0
    while start < len(data):
        end = min(start + MAX_LOG_CHUNK_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end].decode()
        start = end
