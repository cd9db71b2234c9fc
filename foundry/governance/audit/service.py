"""The one place that every mutation passes."""

from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.governance.audit.domain import Actor, to_json_object
from foundry.governance.audit.repository import Events
from foundry.governance.audit.tables import AuditEvent
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of


class AuditTrail:
    """Writes rows for one actor, in the transaction of what they describe."""

    def __init__(self, db: AsyncSession, actor: Actor, request_id: str) -> None:
        self._events = Events(db, actor.tenant_id)
        self._actor = actor
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
        """Add an event to the audit.

        Args:
            action: `resource.verb`, like `alias.set`.
        """
        await self._events.add(
            AuditEvent(
                tenant_id=self._actor.tenant_id,
                project_id=self._actor.project_id,
                actor_type=self._actor.subject_type,
                actor_id=self._actor.subject,
                credential_id=self._actor.credential_id,
                action=action,
                resource_type=resource_type,
                resource_id=resource_id,
                request_id=self._request_id,
                before=to_json_object(before),
                after=to_json_object(after),
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
        rows = await self._events.list_page(
            resource_type=resource_type,
            resource_id=resource_id,
            before=cast(UUID, after[0]) if after else None,
            limit=limit + 1,
        )
        return page_of(rows, limit, lambda event: (event.id,), filters)
