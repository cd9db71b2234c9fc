"""Whether an endpoint stayed what it was during a window: the audit trail knows."""

from datetime import datetime
from uuid import UUID

from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal, Role
from foundry.infra.database import Database

# The newest events; a window further back than these is taken as disturbed.
_EVENTS = 200
# Moves of the engine: deployed, stopped, lost, restarted, running again.
_MOVES = (
    "endpoint.state",
    "endpoint.running",
    "endpoint.scale",
    "endpoint.stopped",
    "endpoint.deleted",
)


class AuditedMoves:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def was_disturbed(
        self, tenant_id: UUID, endpoint_id: UUID, since: datetime, until: datetime
    ) -> bool:
        async with self._database.begin() as db:
            events = await AuditTrail(db, system_principal(tenant_id), "").list_events(
                resource_type="endpoint", resource_id=str(endpoint_id), limit=_EVENTS
            )
        if events.next_cursor is not None and events.data[-1].at > since:
            return True
        return any(event.action in _MOVES and since <= event.at <= until for event in events.data)


def system_principal(tenant_id: UUID, project_id: UUID | None = None) -> Principal:
    """The supervisor, as it reads what belongs to a tenant."""
    return Principal(
        tenant_id=tenant_id,
        project_id=project_id or tenant_id,
        subject="supervisor",
        subject_type="system",
        credential_id="",
        role=Role.MEMBER,
    )
