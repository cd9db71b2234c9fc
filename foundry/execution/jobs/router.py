"""Routes of jobs."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from foundry.catalog.datasets.service import Datasets
from foundry.catalog.registry.service import Registry
from foundry.execution.jobs.importing import (
    ImportCheck,
    ImportRules,
    SourceLook,
    look_at_source,
)
from foundry.execution.jobs.log_archive import JobLogs, LogChunk
from foundry.execution.jobs.schemas import (
    DilocoSubmit,
    ImportSubmit,
    JobList,
    JobLogList,
    JobMetricList,
    JobOut,
    SftSubmit,
)
from foundry.execution.jobs.service import Jobs
from foundry.execution.jobs.submission import Submissions
from foundry.execution.jobs.tables import Job, JobMetric
from foundry.governance.audit.service import AuditTrail
from foundry.infra.answers import Answer
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT, Page
from foundry.infra.http import Db, require_permission
from foundry.infra.http.references import ReferenceQuery
from foundry.serving.endpoints.serving_rank import ServingRanks

router = APIRouter(prefix="/jobs", tags=["jobs"])


def _open_jobs(request: Request, db: Db) -> Jobs:
    principal = request.state.principal
    return Jobs(db, AuditTrail(db, principal, request.state.request_id), principal)


def _open_submissions(request: Request, db: Db) -> Submissions:
    principal = request.state.principal
    audit = AuditTrail(db, principal, request.state.request_id)
    state = request.app.state
    registry = Registry(db, audit, principal)
    ranks = ServingRanks(db, principal, state.serving.max_lora_rank)
    return Submissions(
        Jobs(db, audit, principal),
        registry,
        Datasets(db, principal),
        ranks,
        state.training_check,
        ImportCheck(registry, state.import_rules, ranks),
    )


async def _look_at_source(request: Request, body: ImportSubmit) -> SourceLook:
    """Asked before `SubmissionsDep`, which opens the transaction: dependencies run in order."""
    rules: ImportRules = request.app.state.import_rules
    return await look_at_source(rules.mirror, body.source, body.base)


def _open_logs(request: Request) -> JobLogs:
    state = request.app.state
    return JobLogs(state.database, state.objects, request.state.principal)


LookDep = Annotated[SourceLook, Depends(_look_at_source)]
LogsDep = Annotated[JobLogs, Depends(_open_logs)]
JobsDep = Annotated[Jobs, Depends(_open_jobs)]
SubmissionsDep = Annotated[Submissions, Depends(_open_submissions)]
_READ = [Depends(require_permission("jobs:read"))]
_WRITE = [Depends(require_permission("jobs:write"))]
_SAME: dict[int | str, dict[str, Any]] = {
    200: {"description": "the same job is active or has succeeded already"}
}


@router.post(
    "/sft",
    status_code=201,
    response_model=JobOut,
    operation_id="jobs_submit_sft",
    dependencies=_WRITE,
    responses=_SAME,
)
async def submit_sft(body: SftSubmit, response: Response, submissions: SubmissionsDep) -> JobOut:
    """Fine-tune a base on a dataset. The same job is not run twice unless forced."""
    answer = await submissions.sft(
        body.name,
        body.base,
        body.dataset,
        body.config,
        force=body.force,
        submission_id=body.submission_id,
        priority=body.priority,
    )
    return _describe_submitted(response, answer)


@router.post(
    "/diloco",
    status_code=201,
    response_model=JobOut,
    operation_id="jobs_submit_diloco",
    dependencies=_WRITE,
    responses=_SAME,
)
async def submit_diloco(
    body: DilocoSubmit, response: Response, submissions: SubmissionsDep
) -> JobOut:
    """Fine-tune a base on several workers that synchronise now and then."""
    answer = await submissions.diloco(
        body.name,
        body.base,
        body.dataset,
        body.config,
        force=body.force,
        submission_id=body.submission_id,
        priority=body.priority,
    )
    return _describe_submitted(response, answer)


@router.post(
    "/import",
    status_code=201,
    response_model=JobOut,
    operation_id="jobs_submit_import",
    dependencies=[Depends(require_permission("registry:import"))],
    responses=_SAME,
)
async def submit_import(
    body: ImportSubmit, look: LookDep, response: Response, submissions: SubmissionsDep
) -> JobOut:
    """Register a model that lies on the server."""
    answer = await submissions.import_model(
        body.name, look, base=body.base, force=body.force, priority=body.priority
    )
    return _describe_submitted(response, answer)


@router.get("", response_model=JobList, operation_id="jobs_list", dependencies=_READ)
async def list_jobs(
    jobs: JobsDep,
    state: Annotated[
        str | None, Query(max_length=256, description="one state, or several with commas between")
    ] = None,
    reference: ReferenceQuery = None,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Page[Job]:
    """List jobs, newest first."""
    return await jobs.list_jobs(state=state, reference=reference, cursor=cursor, limit=limit)


@router.get("/{job_id}", response_model=JobOut, operation_id="jobs_get", dependencies=_READ)
async def get_job(job_id: UUID, jobs: JobsDep) -> Job:
    """Describe a job."""
    return await jobs.get(job_id)


@router.get(
    "/{job_id}/metrics",
    response_model=JobMetricList,
    operation_id="jobs_metrics",
    dependencies=_READ,
)
async def job_metrics(
    job_id: UUID,
    jobs: JobsDep,
    after: Annotated[int, Query(ge=-1, lt=2**63, description="steps above this one")] = -1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 2000,
) -> dict[str, Sequence[JobMetric]]:
    """List a job's metrics by step."""
    return {"data": await jobs.metrics(job_id, after=after, limit=limit)}


@router.get(
    "/{job_id}/logs", response_model=JobLogList, operation_id="jobs_logs", dependencies=_READ
)
async def job_logs(
    job_id: UUID,
    logs: LogsDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="chunks above this number")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> dict[str, Sequence[LogChunk]]:
    """Read what a job has printed."""
    return {"data": await logs.read(job_id, after=after, limit=limit)}


@router.post(
    "/{job_id}/cancel", response_model=JobOut, operation_id="jobs_cancel", dependencies=_WRITE
)
async def cancel(job_id: UUID, jobs: JobsDep) -> JobOut:
    """End a job as soon as it can."""
    return (await jobs.cancel(job_id)).describe(JobOut)


@router.post(
    "/{job_id}/resume", response_model=JobOut, operation_id="jobs_resume", dependencies=_WRITE
)
async def resume(job_id: UUID, jobs: JobsDep) -> Job:
    """Continue a failed or cancelled job from its newest checkpoint."""
    return await jobs.resume(job_id)


def _describe_submitted(response: Response, answer: Answer[Job]) -> JobOut:
    """The job; 200 if the same one was there before."""
    if not answer.changed:
        response.status_code = 200
    return answer.describe(JobOut)
