"""SQL of jobs. Every change of state names the states it may come from."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import case, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.execution.jobs.domain import ACTIVE, LEASED, STARTABLE, JobState
from foundry.execution.jobs.tables import Job, JobLog, JobMetric
from foundry.infra.database import utcnow


class JobRows:
    """Jobs of one project."""

    def __init__(self, db: AsyncSession, tenant_id: UUID, project_id: UUID) -> None:
        self._db = db
        self._mine = (Job.tenant_id == tenant_id, Job.project_id == project_id)
        self._tenant_id = tenant_id

    async def add(self, job: Job) -> None:
        self._db.add(job)
        await self._db.flush()

    async def get(self, job_id: UUID, *, lock: bool = False) -> Job | None:
        query = select(Job).where(*self._mine, Job.id == job_id)
        if lock:
            query = query.with_for_update().execution_options(populate_existing=True)
        return (await self._db.execute(query)).scalar()

    async def serialise(self, fingerprint: str) -> None:
        """Until commit, nobody else submits the same job."""
        key = func.hashtextextended(f"{self._tenant_id}:{fingerprint}", 0)
        await self._db.execute(select(func.pg_advisory_xact_lock(key)))

    async def same(self, fingerprint: str) -> Job | None:
        """The newest job of this content that is active or has succeeded."""
        states = [*ACTIVE, JobState.SUCCEEDED]
        query = (
            select(Job)
            .where(*self._mine, Job.fingerprint == fingerprint, Job.state.in_(states))
            .where(Job.cancel_requested.is_(False))
            .order_by(Job.id.desc())
            .limit(1)
        )
        return (await self._db.execute(query)).scalar()

    async def page(self, state: str | None, before: UUID | None, limit: int) -> Sequence[Job]:
        """Newest first."""
        query = select(Job).where(*self._mine)
        if state is not None:
            query = query.where(Job.state == state)
        if before is not None:
            query = query.where(Job.id < before)
        return (await self._db.execute(query.order_by(Job.id.desc()).limit(limit))).scalars().all()

    async def metrics(self, job_id: UUID, after: int, limit: int) -> Sequence[JobMetric]:
        query = (
            select(JobMetric)
            .where(
                JobMetric.tenant_id == self._tenant_id,
                JobMetric.job_id == job_id,
                JobMetric.step > after,
            )
            .order_by(JobMetric.step, JobMetric.name)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()

    async def logs(self, job_id: UUID, after: int, limit: int) -> Sequence[JobLog]:
        query = (
            select(JobLog)
            .where(JobLog.tenant_id == self._tenant_id, JobLog.job_id == job_id, JobLog.seq > after)
            .order_by(JobLog.seq)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()


class Leases:
    """What the supervisor and the drivers of jobs write; across tenants, by job id."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def due(self, limit: int) -> Sequence[Job]:
        """Oldest first; rows that another supervisor holds are skipped."""
        query = (
            select(Job)
            .where(Job.state.in_(STARTABLE), Job.cancel_requested.is_(False))
            .order_by(Job.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return (await self._db.execute(query)).scalars().all()

    async def stopping(self, limit: int) -> Sequence[Job]:
        query = select(Job).where(Job.state.in_(ACTIVE), Job.cancel_requested).order_by(Job.id)
        return (await self._db.execute(query.limit(limit))).scalars().all()

    async def get(self, job_id: UUID) -> Job | None:
        return await self._db.get(Job, job_id, populate_existing=True)

    async def move(
        self,
        job_id: UUID,
        states: Collection[JobState],
        *,
        held: int | None = None,
        **values: Any,
    ) -> Job | None:
        """Change a job that is in one of `states` and, if given, has the fence `held`.

        None: it is not so, and nothing has changed.
        """
        statement = update(Job).where(Job.id == job_id, Job.state.in_(states))
        if held is not None:
            statement = statement.where(Job.fence == held)
        found = await self._db.execute(
            statement.values(**values).returning(Job).execution_options(populate_existing=True)
        )
        return found.scalar()

    async def expire(self, older_than_s: float, starting_s: float) -> Sequence[Job]:
        """Mark jobs STALLED whose driver has been silent, by the database's clock."""
        allowed = case(
            (Job.state == JobState.STARTING, starting_s),
            else_=older_than_s,
        )
        silent = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, allowed)
        statement = (
            update(Job)
            .where(Job.state.in_(LEASED), Job.heartbeat_at < silent)
            .values(state=JobState.STALLED, fence=Job.fence + 1)
            .returning(Job)
            .execution_options(populate_existing=True)
        )
        return (await self._db.execute(statement)).scalars().all()

    async def put_metrics(self, job: Job, step: int, values: dict[str, float]) -> None:
        rows = [
            {
                "job_id": job.id,
                "step": step,
                "name": name,
                "tenant_id": job.tenant_id,
                "value": value,
                "at": utcnow(),
            }
            for name, value in values.items()
        ]
        statement = insert(JobMetric).values(rows)
        await self._db.execute(
            statement.on_conflict_do_update(
                index_elements=["job_id", "step", "name"],
                set_={"value": statement.excluded.value, "at": statement.excluded.at},
            )
        )

    async def log_place(self, job_id: UUID) -> tuple[int, int]:
        """Highest chunk number and the bytes kept so far."""
        query = select(
            func.coalesce(func.max(JobLog.seq), 0),
            func.coalesce(func.sum(func.octet_length(JobLog.text)), 0),
        ).where(JobLog.job_id == job_id)
        row = (await self._db.execute(query)).one()
        return int(row[0]), int(row[1])

    async def add_log(self, job: Job, seq: int, text: str) -> None:
        self._db.add(JobLog(job_id=job.id, seq=seq, tenant_id=job.tenant_id, text=text))
        await self._db.flush()
