"""Routes of outcomes, corrections, models of the predictor and advice."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request

from foundry.governance.audit.service import AuditTrail
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT, Page
from foundry.infra.http import Db, require_permission
from foundry.serving.outcomes.recalibration import Recalibration
from foundry.serving.outcomes.schemas import (
    AdviceList,
    ArtifactOut,
    ModelIn,
    ModelList,
    ModelOut,
    OutcomeList,
    RecalibrateIn,
    RecalibrationOut,
)
from foundry.serving.outcomes.service import BudsimAdvice, BudsimModel, Outcomes

router = APIRouter(prefix="/budsim", tags=["budsim"])


def _outcomes(request: Request, db: Db) -> Outcomes:
    principal = request.state.principal
    audit = AuditTrail(db, principal, request.state.request_id)
    return Outcomes(db, request.app.state.objects, audit, principal)


def _recalibration(request: Request) -> Recalibration:
    state = request.app.state
    return Recalibration(
        state.database,
        state.objects,
        state.forecasts,
        request.state.principal,
        request.state.request_id,
    )


OutcomesDep = Annotated[Outcomes, Depends(_outcomes)]
RecalibrationDep = Annotated[Recalibration, Depends(_recalibration)]
Cursor = Annotated[str | None, Query(max_length=1024)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Version = Annotated[
    str,
    Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="name of a version of the predictor"),
]
_READ = [Depends(require_permission("budsim:read"))]
_ADMIN = [Depends(require_permission("budsim:admin"))]


@router.get(
    "/outcomes", response_model=OutcomeList, operation_id="budsim_outcomes", dependencies=_READ
)
async def list_outcomes(
    outcomes: OutcomesDep,
    endpoint_id: UUID | None = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> dict[str, object]:
    """List what predictions came to, newest first, and which of them are stale."""
    page = await outcomes.list_outcomes(endpoint_id=endpoint_id, cursor=cursor, limit=limit)
    return {
        "data": page.data,
        "next_cursor": page.next_cursor,
        "staleness": await outcomes.list_alarms(),
        "refit_due": await outcomes.is_refit_due(),
    }


@router.get("/advice", response_model=AdviceList, operation_id="budsim_advice", dependencies=_READ)
async def list_advice(
    outcomes: OutcomesDep, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[BudsimAdvice]:
    """List better configurations for running endpoints."""
    return await outcomes.list_advice(cursor=cursor, limit=limit)


@router.post(
    "/recalibrate",
    response_model=RecalibrationOut,
    operation_id="budsim_recalibrate",
    dependencies=_ADMIN,
)
async def recalibrate(body: RecalibrateIn, recalibration: RecalibrationDep) -> RecalibrationOut:
    """Compute the corrections of predictions anew."""
    return await recalibration.run(body.load_test)


@router.get("/models", response_model=ModelList, operation_id="budsim_models", dependencies=_READ)
async def list_models(outcomes: OutcomesDep) -> dict[str, object]:
    """List versions of the predictor, newest first."""
    return {"data": await outcomes.list_models()}


@router.post(
    "/artifacts",
    status_code=201,
    response_model=ArtifactOut,
    operation_id="budsim_upload_artifact",
    dependencies=_ADMIN,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def upload_artifact(request: Request, outcomes: OutcomesDep) -> dict[str, str]:
    """Store a packed predictor, to be registered by its digest."""
    return {"digest": await outcomes.keep_artifact(await request.body())}


@router.post(
    "/models",
    status_code=201,
    response_model=ModelOut,
    operation_id="budsim_register_model",
    dependencies=_ADMIN,
)
async def register_model(body: ModelIn, outcomes: OutcomesDep) -> BudsimModel:
    """Add a fitted predictor: active if it is better than the active one, else a shadow."""
    return await outcomes.register_model(body.version, body.digest, body.cv, body.site_cv)


@router.post(
    "/models/{version}/promote",
    response_model=ModelOut,
    operation_id="budsim_promote",
    dependencies=_ADMIN,
)
async def promote(version: Version, outcomes: OutcomesDep) -> BudsimModel:
    """Make a version of the predictor the active one; an older one rolls back."""
    return await outcomes.promote_model(version)
