"""The one place that every mutation passes."""

from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.audit.domain import plain_dict
from foundry.audit.repository import Events
from foundry.audit.tables import AuditEvent
from foundry.identity.domain import Principal
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of


class AuditTrail:
    """Writes rows for one principal, in the transaction of what they describe."""

    def __init__(self, db: AsyncSession, principal: Principal, request_id: str) -> None:
        self._events = Events(db, principal.tenant_id)
        self._principal = principal
        self._request_id = request_id

    @property
    def request_id(self) -> str:
        return self._request_id

    async def record(
        self,
        action: str,
        resource_type: str,
        resource_id: str,
        before: dict[str, object] | None = None,
        after: dict[str, object] | None = None,
        reason: str | None = None,
    ) -> None:
        """Args: action: `resource.verb`, like `alias.set`."""
        await self._events.add(
            AuditEvent(
                tenant_id=self._principal.tenant_id,
                project_id=self._principal.project_id,
                actor_type=self._principal.subject_type,
                actor_id=self._principal.subject,
                credential_id=self._principal.credential_id,
                action=action,
                resource_type=resource_type,
                resource_id=resource_id,
                request_id=self._request_id,
                before=plain_dict(before),
                after=plain_dict(after),
                reason=reason,
            )
        )

    async def list_events(
        self,
        *,
        resource_type: str | None = None,
        resource_id: str | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[AuditEvent]:
        filters = f"{resource_type}|{resource_id}"
        after = decode(cursor, (UUID,), filters)
        rows = await self._events.page(
            resource_type=resource_type,
            resource_id=resource_id,
            before=cast(UUID, after[0]) if after else None,
            limit=limit + 1,
        )
        return page_of(rows, limit, lambda event: (event.id,), filters)
