"""What the driver of a job may write while it holds the lease."""

import math
from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import func

from foundry.errors import LeaseLost, NotFound
from foundry.infra.database import Database
from foundry.jobs.domain import LEASED, MAX_LOG_BYTES, MAX_LOG_CHUNK_BYTES, STARTABLE, JobState
from foundry.jobs.repository import Leases
from foundry.jobs.tables import Job

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
            values["progress"] = progress
        job = await self._write(**values)
        return job.cancel_requested

    async def metrics(self, step: int, values: dict[str, float]) -> None:
        """Store values of one step, the finite ones; the same step again replaces them."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        async with self._database.begin() as db:
            leases = Leases(db)
            job = await self._held(leases)
            if finite:
                await leases.put_metrics(job, step, finite)

    async def log(self, text: str) -> None:
        """Append to the job's log, in chunks of at most 16 KiB and 4 MiB in all."""
        async with self._database.begin() as db:
            leases = Leases(db)
            job = await self._held(leases)
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

    async def _held(self, leases: Leases) -> Job:
        job = await leases.move(self._job_id, LEASED, held=self._fence, heartbeat_at=func.now())
        if job is None:
            raise self._lost()
        return job

    async def _write(self, **values: object) -> Job:
        async with self._database.begin() as db:
            job = await Leases(db).move(self._job_id, LEASED, held=self._fence, **values)
            if job is None:
                raise self._lost()
            return job

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"job {self._job_id}: another attempt has taken over or the job has ended; stop",
            fence=self._fence,
        )


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
