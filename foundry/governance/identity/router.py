"""Routes of API keys."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import list_granted, narrow_scopes
from foundry.governance.identity.schemas import KeyCreate, KeyCreated, KeyList, KeyOut, WhoAmI
from foundry.governance.identity.service import KeyRing
from foundry.governance.identity.tables import ApiKey
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT, Page
from foundry.infra.http import Db, require_permission

router = APIRouter(tags=["identity"])


def _open_keys(request: Request, db: Db) -> KeyRing:
    authenticator, principal = request.app.state.authenticator, request.state.principal
    audit = AuditTrail(db, principal, request.state.request_id)
    return KeyRing(db, audit, principal, authenticator.pepper, authenticator.settings)


KeyRingDep = Annotated[KeyRing, Depends(_open_keys)]


@router.get(
    "/whoami",
    response_model=WhoAmI,
    operation_id="identity_whoami",
    dependencies=[Depends(require_permission("keys:read"))],
)
async def whoami(request: Request) -> WhoAmI:
    """Tell whose key was sent, and what it may do."""
    caller = request.state.principal
    return WhoAmI(
        tenant_id=str(caller.tenant_id),
        project_id=str(caller.project_id),
        subject=caller.subject,
        role=caller.role,
        scopes=narrow_scopes(caller.role, caller.scopes),
        permissions=list_granted(caller.role, caller.scopes),
        key_id=caller.credential_id,
    )


@router.post(
    "/keys",
    status_code=201,
    response_model=KeyCreated,
    operation_id="keys_create",
    dependencies=[Depends(require_permission("keys:write"))],
)
async def create_key(body: KeyCreate, keys: KeyRingDep) -> KeyCreated:
    """Make a key. Its text is in this answer and nowhere else."""
    made = await keys.create_key(
        name=body.name,
        role=body.role,
        scopes=frozenset(body.scopes),
        expires_in_days=body.expires_in_days,
        subject=body.subject,
    )
    row = KeyOut.model_validate(made.row)
    return KeyCreated(**row.model_dump(), key=made.text, namesakes=made.namesakes)


@router.get(
    "/keys",
    response_model=KeyList,
    operation_id="keys_list",
    dependencies=[Depends(require_permission("keys:read"))],
)
async def list_keys(
    keys: KeyRingDep,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Page[ApiKey]:
    """List the keys of the caller's tenant, newest first, without their secret parts."""
    return await keys.list_keys(cursor, limit)


@router.delete(
    "/keys/{key_id}",
    response_model=KeyOut,
    operation_id="keys_revoke",
    dependencies=[Depends(require_permission("keys:write"))],
)
async def revoke_key(key_id: str, keys: KeyRingDep) -> ApiKey:
    """Refuse a key from now on."""
    return await keys.revoke_key(key_id)
