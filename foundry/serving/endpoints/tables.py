"""Endpoints: what the user wants and what the supervisor saw."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7
from foundry.serving.endpoints.domain import EndpointState

_LIVE = text("state <> 'DELETED'")


class Endpoint(Base):
    __tablename__ = "endpoints"
    __table_args__ = (
        Index(
            "uq_endpoints_name",
            "tenant_id",
            "project_id",
            "name",
            unique=True,
            postgresql_where=_LIVE,
        ),
        # One engine per base: adapters share it.
        Index(
            "uq_endpoints_model",
            "tenant_id",
            "model_version_id",
            unique=True,
            postgresql_where=_LIVE,
        ),
        Index("ix_endpoints_listing", "tenant_id", "project_id", "id"),
        Index("ix_endpoints_live", "id", postgresql_where=_LIVE),
        CheckConstraint("desired IN ('running', 'stopped', 'deleted')", name="desired"),
        CheckConstraint(
            "state IN (" + ", ".join(f"'{state}'" for state in EndpointState) + ")", name="state"
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID]
    name: Mapped[str] = mapped_column(Text)
    model_version_id: Mapped[UUID]
    model_reference: Mapped[str] = mapped_column(Text)
    desired: Mapped[str] = mapped_column(Text, default="stopped")
    state: Mapped[str] = mapped_column(Text, default=EndpointState.CREATED)
    base_digest: Mapped[str] = mapped_column(Text)
    app_name: Mapped[str] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(default=0)
    config: Mapped[dict[str, object]] = mapped_column(default=dict)
    config_generation: Mapped[int] = mapped_column(BigInteger, default=1)
    optimization: Mapped[dict[str, object] | None]
    recommendation_id: Mapped[UUID | None]
    next_config: Mapped[dict[str, object] | None]
    # The engine that the current revision replaces, until the supervisor has removed it.
    previous_app_name: Mapped[str | None] = mapped_column(Text)
    last_error: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[dict[str, object]] = mapped_column(default=dict)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)
