"""SQL of jobs. Every change of state names the states it may come from."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, case, delete, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.execution.jobs.domain import ACTIVE, LEASED, JobState, Phase
from foundry.execution.jobs.tables import Job, JobCheckpoint, JobLog, JobMetric
from foundry.infra.database import utcnow
from foundry.infra.references import match_reference


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

    async def serialise_submissions(self, fingerprint: str) -> None:
        """Until commit, nobody else submits the same job."""
        key = func.hashtextextended(f"{self._tenant_id}:{fingerprint}", 0)
        await self._db.execute(select(func.pg_advisory_xact_lock(key)))

    async def find_same(self, fingerprint: str) -> Job | None:
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

    async def find_reader(self, dataset_version_ids: Collection[UUID]) -> Job | None:
        """An active job that reads one of these versions of datasets."""
        read = Job.spec["dataset_version_id"].astext
        query = (
            select(Job)
            .where(*self._mine, Job.state.in_(ACTIVE))
            .where(read.in_(map(str, dataset_version_ids)))
            .order_by(Job.id)
            .limit(1)
        )
        return (await self._db.execute(query)).scalar()

    async def list_page(
        self, states: Collection[str], reference: str | None, before: UUID | None, limit: int
    ) -> Sequence[Job]:
        """List jobs, newest first."""
        query = select(Job).where(*self._mine)
        if reference is not None:
            query = query.where(match_reference(reference, Job.id, Job.name))
        if states:
            query = query.where(Job.state.in_(states))
        if before is not None:
            query = query.where(Job.id < before)
        return (await self._db.execute(query.order_by(Job.id.desc()).limit(limit))).scalars().all()

    async def list_metrics(self, job_id: UUID, after: int, limit: int) -> Sequence[JobMetric]:
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

    async def list_log(self, job_id: UUID, after: int, limit: int) -> Sequence[JobLog]:
        """Chunks above `after` that are not archived."""
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

    async def list_queued(
        self, after: tuple[int, UUID] | None, limit: int
    ) -> Sequence[Row[UUID, int, dict[str, object], str | None]]:
        """Id, priority, needs and `waiting_for` of the queue, by priority, then age.

        Jobs that wait for the delay between two attempts are not in it yet.

        Args:
            after: priority and id of the last one that was read.
        """
        query = select(Job.id, Job.priority, Job.needs, Job.waiting_for).where(
            Job.state == JobState.QUEUED,
            Job.cancel_requested.is_(False),
            or_(Job.retry_at.is_(None), Job.retry_at <= func.now()),
        )
        if after is not None:
            place = tuple_(-Job.priority, Job.id)
            query = query.where(place > tuple_(literal(-after[0]), literal(after[1])))
        return (
            await self._db.execute(query.order_by(Job.priority.desc(), Job.id).limit(limit))
        ).all()

    async def list_in_state(
        self, state: JobState, busy: Collection[UUID], limit: int
    ) -> Sequence[Job]:
        """Jobs that nobody has asked to stop, by priority, then age, without the `busy` ones."""
        query = (
            select(Job)
            .where(Job.state == state, Job.cancel_requested.is_(False), Job.id.not_in(busy))
            .order_by(Job.priority.desc(), Job.id)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()

    async def list_unplaced(self) -> Sequence[Job]:
        """Admitted jobs whose workers may not have their resources yet."""
        placing = Job.state.in_(LEASED) & (Job.phase.is_(None) | (Job.phase == Phase.PLACE))
        query = select(Job).where((Job.state == JobState.ADMITTED) | placing)
        return (await self._db.execute(query)).scalars().all()

    async def list_unconfirmed(
        self, older_than_s: float, busy: Collection[UUID], limit: int
    ) -> Sequence[Job]:
        """Attempts that were opened a while ago, and nobody knows whether Ray took them."""
        query = select(Job).where(
            Job.state == JobState.STARTING,
            Job.id.not_in(busy),
            Job.submitted_at.is_(None),
            Job.cancel_requested.is_(False),
            Job.heartbeat_at < _ago(older_than_s),
        )
        return (await self._db.execute(query.order_by(Job.id).limit(limit))).scalars().all()

    async def list_quiet(
        self, older_than_s: float, busy: Collection[UUID], limit: int
    ) -> Sequence[Job]:
        """Jobs whose driver has missed a beat or has not claimed yet, the quietest first."""
        query = (
            select(Job)
            .where(
                Job.state.in_(LEASED),
                Job.id.not_in(busy),
                Job.submitted_at.is_not(None),
                Job.heartbeat_at < _ago(older_than_s),
            )
            .order_by(Job.heartbeat_at)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()

    async def list_to_stop(
        self, grace_s: float, busy: Collection[UUID], limit: int
    ) -> Sequence[Job]:
        """Jobs that were asked to stop and did not in time, or whose driver is lost."""
        late = Job.cancel_requested_at < _ago(grace_s)
        query = (
            select(Job)
            .where(
                Job.state.in_(ACTIVE),
                Job.id.not_in(busy),
                Job.cancel_requested,
                late | (Job.state == JobState.STALLED),
            )
            .order_by(Job.cancel_requested_at)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()

    async def get(self, job_id: UUID) -> Job | None:
        return await self._db.get(Job, job_id, populate_existing=True)

    async def move(
        self,
        job_id: UUID,
        states: Collection[JobState],
        *,
        held: int | None = None,
        named: str | None = None,
        heard_at: datetime | None = None,
        cancelling: bool = False,
        **values: Any,
    ) -> Job | None:
        """Change a job that is in one of `states`. None: it is not, and nothing has changed.

        Args:
            held: the fence that it must have.
            named: the submission id that it must have.
            heard_at: when its driver must have been heard last.
            cancelling: it must have been asked to stop.
        """
        statement = update(Job).where(Job.id == job_id, Job.state.in_(states))
        if held is not None:
            statement = statement.where(Job.fence == held)
        if named is not None:
            statement = statement.where(Job.submission_id == named)
        if heard_at is not None:
            statement = statement.where(Job.heartbeat_at == heard_at)
        if cancelling:
            statement = statement.where(Job.cancel_requested)
        found = await self._db.execute(
            statement.values(**values).returning(Job).execution_options(populate_existing=True)
        )
        return found.scalar()

    async def lock_silent(self, older_than_s: float, starting_s: float) -> Sequence[Job]:
        """Jobs whose driver has been silent, by the database's clock."""
        allowed = case((Job.state == JobState.STARTING, starting_s), else_=older_than_s)
        return await self._lock_leased(Job.heartbeat_at < _ago(allowed))

    async def lock_hung(self, slack_s: float) -> Sequence[Job]:
        """Jobs whose driver lives and shows nothing new for longer than their phase allows."""
        return await self._lock_leased(
            Job.progress_at < _ago(Job.progress_allowance_s + slack_s),
        )

    async def _lock_leased(self, overdue: ColumnElement[bool]) -> Sequence[Job]:
        query = select(Job).where(Job.state.in_(LEASED), overdue)
        locked = query.with_for_update(skip_locked=True)
        found = await self._db.execute(locked.execution_options(populate_existing=True))
        return found.scalars().all()

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

    async def read_log_place(self, job: Job) -> tuple[int, int]:
        """Highest chunk number and the bytes kept so far, archived ones included."""
        query = select(
            func.coalesce(func.max(JobLog.seq), job.log_seq),
            func.coalesce(func.sum(func.octet_length(JobLog.text)), 0),
        ).where(JobLog.job_id == job.id)
        row = (await self._db.execute(query)).one()
        return int(row[0]), int(row[1]) + job.log_bytes

    async def add_log(self, job: Job, seq: int, text: str) -> None:
        self._db.add(JobLog(job_id=job.id, seq=seq, tenant_id=job.tenant_id, text=text))
        await self._db.flush()

    async def list_log(self, job_id: UUID) -> Sequence[JobLog]:
        """The chunks that are not archived."""
        query = select(JobLog).where(JobLog.job_id == job_id).order_by(JobLog.seq)
        return (await self._db.execute(query)).scalars().all()

    async def remove_log(self, job_id: UUID, up_to_seq: int) -> None:
        await self._db.execute(
            delete(JobLog).where(JobLog.job_id == job_id, JobLog.seq <= up_to_seq)
        )

    async def list_unarchived(
        self, ended_s: float, skipped: Collection[UUID], limit: int
    ) -> Sequence[Job]:
        """Ended jobs of whose log something is in rows, the longest ended first."""
        return await self._list_ended(
            limit,
            skipped,
            Job.id.in_(select(JobLog.job_id).distinct()),
            Job.finished_at < _ago(ended_s),
        )

    async def list_collectable(
        self, succeeded_s: float, resumable_s: float, skipped: Collection[UUID], limit: int
    ) -> Sequence[Job]:
        """Ended jobs whose checkpoints nobody needs any more."""
        succeeded = (Job.state == JobState.SUCCEEDED) & (Job.finished_at < _ago(succeeded_s))
        given_up = Job.finished_at < _ago(resumable_s)
        return await self._list_ended(
            limit, skipped, Job.collected_at.is_(None), succeeded | given_up
        )

    async def _list_ended(
        self, limit: int, skipped: Collection[UUID], *conditions: ColumnElement[bool]
    ) -> Sequence[Job]:
        query = select(Job).where(Job.state.not_in(ACTIVE), Job.id.not_in(skipped), *conditions)
        return (
            (await self._db.execute(query.order_by(Job.finished_at).limit(limit))).scalars().all()
        )

    async def list_known_keys(self, keys: Collection[str]) -> set[str]:
        """Those of `keys` that a checkpoint or an archived log has."""
        checkpoints = select(JobCheckpoint.object_key).where(JobCheckpoint.object_key.in_(keys))
        logs = select(Job.log_key).where(Job.log_key.in_(keys))
        found = (*(await self._db.execute(checkpoints)).scalars(),)
        return {*found, *(key for key in (await self._db.execute(logs)).scalars() if key)}

    async def list_active_ids(self) -> set[UUID]:
        return set((await self._db.execute(select(Job.id).where(Job.state.in_(ACTIVE)))).scalars())


class CheckpointRows:
    """Checkpoints of one job."""

    def __init__(self, db: AsyncSession, job_id: UUID) -> None:
        self._db = db
        self._job_id = job_id

    async def add(self, checkpoint: JobCheckpoint) -> None:
        self._db.add(checkpoint)
        await self._db.flush()

    async def list_newest_first(self) -> Sequence[JobCheckpoint]:
        """A later attempt's before an earlier one's, whatever their steps."""
        query = (
            select(JobCheckpoint)
            .where(JobCheckpoint.job_id == self._job_id)
            .order_by(
                JobCheckpoint.fence.desc(), JobCheckpoint.step.desc(), JobCheckpoint.id.desc()
            )
        )
        return (await self._db.execute(query)).scalars().all()

    async def remove(self, checkpoint_ids: Collection[UUID]) -> None:
        await self._db.execute(delete(JobCheckpoint).where(JobCheckpoint.id.in_(checkpoint_ids)))


def from_now(seconds: float) -> ColumnElement[Any]:
    """A moment by the database's clock."""
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _ago(seconds: Any) -> ColumnElement[Any]:
    """A moment by the database's clock."""
    return func.now() - func.make_interval(0, 0, 0, 0, 0, 0, seconds)
