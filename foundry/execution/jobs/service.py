"""Jobs as their owners see them; `leases` and `queue` are the sides of driver and supervisor."""

from collections.abc import Sequence
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.datasets.service import hold_version
from foundry.errors import Conflict, InvalidRequest, NotFound
from foundry.execution.jobs.domain import ENDED, JobState
from foundry.execution.jobs.repository import JobRows
from foundry.execution.jobs.request import JobRequest

# Other slices get their type of a job here: tables stay inside the slice.
from foundry.execution.jobs.tables import Job as Job
from foundry.execution.jobs.tables import JobMetric
from foundry.execution.jobs.transitions import JobTransitions, begin_as_driver
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.answers import Answer
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import utcnow


class Jobs:
    """Jobs of the principal's project."""

    def __init__(self, db: AsyncSession, audit: AuditTrail, principal: Principal) -> None:
        self._db = db
        self._audit = audit
        self._principal = principal
        self._rows = JobRows(db, principal.tenant_id, principal.project_id)

    async def find_same_job(self, request: JobRequest) -> Job | None:
        """The newest equal job that is active or has succeeded; None: none, or it is forced.

        Until the transaction ends, nobody else finds or queues an equal one.
        """
        await self._rows.serialise_submissions(request.fingerprint)
        if request.force:
            return None
        return await self._rows.find_same(request.fingerprint)

    async def queue_job(self, request: JobRequest) -> Job:
        """Add a job to the queue. Ask `find_same_job` first whether it is there already."""
        job = Job(
            tenant_id=self._principal.tenant_id,
            project_id=self._principal.project_id,
            kind=request.kind,
            name=request.name,
            spec=request.spec,
            fingerprint=request.fingerprint,
            priority=request.priority,
            needs=request.needs.document(),
            created_by=self._principal.subject,
        )
        if request.submission_id is not None:
            begin_as_driver(job, request.submission_id)
        await self._rows.add(job)
        after: dict[str, object] = {"kind": request.kind, **request.spec}
        await self._audit.record("job.submit", "job", str(job.id), after=after)
        return job

    async def get(self, job_id: UUID) -> Job:
        """A job of the project. Raises NotFound."""
        return _require_job(await self._rows.get(job_id), job_id)

    async def list_jobs(
        self,
        *,
        state: str | None = None,
        reference: str | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[Job]:
        """List jobs, newest first.

        Args:
            state: one, or several with commas between; None: any.
            reference: a name, or the beginning of an id.
        """
        states = [] if state is None else state.split(",")
        if unknown := set(states) - set(JobState):
            raise InvalidRequest(
                f"state: {', '.join(sorted(unknown))} is none; there are {', '.join(JobState)}",
                param="state",
            )
        filters = f"{state} {reference}"
        after = decode(cursor, (UUID,), filters)
        before = cast(UUID, after[0]) if after else None
        rows = await self._rows.list_page(states, reference, before, limit + 1)
        return page_of(rows, limit, lambda job: (job.id,), filters)

    async def metrics(self, job_id: UUID, *, after: int, limit: int) -> Sequence[JobMetric]:
        """List metrics by step and name; the last step may be cut: ask again for it."""
        await self.get(job_id)
        return await self._rows.list_metrics(job_id, after, limit)

    async def cancel(self, job_id: UUID) -> Answer[Job]:
        """Ask a job to stop: at once if no driver runs, else after a checkpoint.

        One that is being cancelled is left alone. Raises Conflict: it has ended.
        """
        job = _require_job(await self._rows.get(job_id, lock=True), job_id)
        if job.state in ENDED:
            raise Conflict(
                f"job {job_id} has ended already, it is {job.state}: there is nothing to cancel",
                state=job.state,
            )
        if job.cancel_requested:
            return Answer(job, f"job {job_id} is being cancelled already")
        before = job.state
        job.cancel_requested, job.cancel_requested_at = True, utcnow()
        await self._db.flush()
        # A STALLED one is left to the supervisor: its driver may live, and is ended first.
        job = await JobTransitions(self._db).cancel_waiting(job_id) or job
        await self._audit.record("job.cancel", "job", str(job.id), before={"state": before})
        return Answer(job)

    async def resume(self, job_id: UUID) -> Job:
        """Queue a failed or cancelled job again; it goes on from its last checkpoint.

        Attempts are numbered on; failures are counted anew.

        Raises:
            Conflict: it runs, or it has succeeded.
            NotFound: its dataset was deleted.
        """
        job = _require_job(await self._rows.get(job_id, lock=True), job_id)
        before = job.state
        if (dataset := job.spec.get("dataset_version_id")) is not None:
            await hold_version(self._db, UUID(str(dataset)))
        resumed = await JobTransitions(self._db).resume(job_id)
        if resumed is None:
            raise Conflict(
                f"job {job_id} {_describe_state(job)}: only a failed or cancelled one resumes",
                state=before,
            )
        await self._audit.record("job.resume", "job", str(job.id), before={"state": before})
        return resumed


def describe_same(job: Job) -> str:
    """Say that the same job was there before, and how to run it again all the same."""
    verb = "import" if job.kind == "import" else "train"
    if job.state == JobState.SUCCEEDED:
        made = (job.result or {}).get("model", job.name)
        return f"already {verb}ed as {made} by job {job.id}; --force {verb}s again"
    return f"the same job is {job.state} already: {job.id}; --force {verb}s beside it"


def _describe_state(job: Job) -> str:
    if job.state == JobState.SUCCEEDED:
        made = (job.result or {}).get("model")
        return "has succeeded" + (f" and made {made}" if made else "")
    return f"is {job.state}" + (" and being cancelled" if job.cancel_requested else "")


def _require_job(job: Job | None, job_id: UUID) -> Job:
    if job is None:
        raise NotFound(f"there is no job {job_id}: `foundry jobs list` shows yours")
    return job
