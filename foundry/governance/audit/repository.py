"""SQL of the audit trail: insert and read, nothing else exists."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.governance.audit.tables import AuditEvent


class Events:
    """Events of one tenant."""

    def __init__(self, db: AsyncSession, tenant_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id

    async def add(self, event: AuditEvent) -> None:
        self._db.add(event)
        await self._db.flush()

    async def list_page(
        self,
        *,
        resource_type: str | None,
        resource_id: str | None,
        before: UUID | None,
        limit: int,
    ) -> Sequence[AuditEvent]:
        """List events, newest first."""
        query = select(AuditEvent).where(AuditEvent.tenant_id == self._tenant_id)
        if resource_type is not None:
            query = query.where(AuditEvent.resource_type == resource_type)
        if resource_id is not None:
            query = query.where(AuditEvent.resource_id == resource_id)
        if before is not None:
            query = query.where(AuditEvent.id < before)
        query = query.order_by(AuditEvent.id.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()
