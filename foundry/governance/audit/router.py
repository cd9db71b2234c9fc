"""Routes of the audit trail."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from foundry.governance.audit.schemas import AuditEventList
from foundry.governance.audit.service import AuditTrail
from foundry.governance.audit.tables import AuditEvent
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT, Page
from foundry.infra.http import Db, require_permission

router = APIRouter(prefix="/audit", tags=["audit"])


def _open_audit(request: Request, db: Db) -> AuditTrail:
    return AuditTrail(db, request.state.principal, request.state.request_id)


@router.get(
    "",
    response_model=AuditEventList,
    operation_id="audit_list",
    dependencies=[Depends(require_permission("audit:read"))],
)
async def list_events(
    audit: Annotated[AuditTrail, Depends(_open_audit)],
    resource_type: Annotated[
        str | None, Query(max_length=64, description="kind of what was done to, like model_alias")
    ] = None,
    resource_id: Annotated[
        str | None, Query(max_length=256, description="what was done to")
    ] = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Page[AuditEvent]:
    """List who did what, newest first."""
    return await audit.list_events(
        resource_type=resource_type, resource_id=resource_id, cursor=cursor, limit=limit
    )
