"""The audit trail."""

from foundry.governance.audit.schemas import AuditEventOut
from foundry.sdk._transport import Call, Resource, S_co, pages, path
from foundry.sdk.paging import Page


class Audit(Resource[S_co]):
    @pages("audit_list")
    def list(
        self,
        *,
        resource_type: str | None = None,
        resource_id: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Call[Page[AuditEventOut]]:
        """Who did what, newest first, `limit` events to a page."""
        query = {
            "resource_type": resource_type,
            "resource_id": resource_id,
            "cursor": cursor,
            "limit": limit,
        }
        return Call("GET", path("audit"), Page[AuditEventOut], query)
