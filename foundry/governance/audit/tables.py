"""The audit trail. A trigger of the first migration refuses UPDATE, DELETE and TRUNCATE."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7


class AuditEvent(Base):
    __tablename__ = "audit_events"
    __table_args__ = (
        Index("ix_audit_events_listing", "tenant_id", "id"),
        Index("ix_audit_events_resource", "tenant_id", "resource_type", "resource_id", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID | None]
    at: Mapped[datetime] = mapped_column(default=utcnow)
    actor_type: Mapped[str] = mapped_column(Text)
    actor_id: Mapped[str] = mapped_column(Text)
    credential_id: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(Text)
    resource_type: Mapped[str] = mapped_column(Text)
    resource_id: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text, default="success")
    request_id: Mapped[str] = mapped_column(Text)
    before: Mapped[dict[str, object] | None]
    after: Mapped[dict[str, object] | None]
    reason: Mapped[str | None] = mapped_column(Text)
