"""The audit trail."""

from foundry.governance.audit.schemas import AuditEventList
from foundry.sdk._transport import Call, Resource, S_co, operation, path


class Audit(Resource[S_co]):
    @operation("audit_list")
    def list(
        self,
        *,
        resource_type: str | None = None,
        resource_id: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Call[AuditEventList]:
        """One page of who did what, newest first."""
        query = {
            "resource_type": resource_type,
            "resource_id": resource_id,
            "cursor": cursor,
            "limit": limit,
        }
        return Call("GET", path("audit"), AuditEventList, query)
