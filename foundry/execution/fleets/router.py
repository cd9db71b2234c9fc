"""Routes of rounds and membership, beside the job that they belong to."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request

from foundry.execution.fleets.schemas import FleetEventList, RoundList
from foundry.execution.fleets.service import DilocoEvent, DilocoRound, Fleets
from foundry.execution.jobs.service import Jobs
from foundry.governance.audit.service import AuditTrail
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT
from foundry.infra.http import Db, require_permission

router = APIRouter(prefix="/jobs", tags=["jobs"])


def _open_fleets(request: Request, db: Db) -> Fleets:
    principal = request.state.principal
    jobs = Jobs(db, AuditTrail(db, principal, request.state.request_id), principal)
    return Fleets(db, jobs, principal)


FleetsDep = Annotated[Fleets, Depends(_open_fleets)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
_READ = [Depends(require_permission("jobs:read"))]


@router.get(
    "/{job_id}/rounds", response_model=RoundList, operation_id="jobs_rounds", dependencies=_READ
)
async def rounds(
    job_id: UUID,
    fleets: FleetsDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="rounds above this one")] = 0,
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, Sequence[DilocoRound]]:
    """List the rounds of a DiLoCo job, oldest first."""
    return {"data": await fleets.rounds(job_id, after=after, limit=limit)}


@router.get(
    "/{job_id}/members",
    response_model=FleetEventList,
    operation_id="jobs_members",
    dependencies=_READ,
)
async def members(
    job_id: UUID,
    fleets: FleetsDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="events above this number")] = 0,
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, Sequence[DilocoEvent]]:
    """List what happened to the members of a DiLoCo job, oldest first."""
    return {"data": await fleets.members(job_id, after=after, limit=limit)}
