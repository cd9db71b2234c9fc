"""Endpoints: what the user wants and what the supervisor saw."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7
from foundry.serving.endpoints.domain import EndpointState, RevisionState

_LIVE = text("state <> 'DELETED'")


class Endpoint(Base):
    """One endpoint."""

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
        Index(
            "ix_endpoints_model",
            "tenant_id",
            "model_version_id",
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
    # Of the revision that requests reach, or will reach first; so is `config`.
    app_name: Mapped[str] = mapped_column(Text)
    serving_revision: Mapped[int | None]
    target_revision: Mapped[int | None]
    # The revision that made room for the target; it returns if the target fails.
    fallback_revision: Mapped[int | None]
    # Counts the writes: whoever decided on an older one decides again.
    version: Mapped[int] = mapped_column(BigInteger, default=0)
    config: Mapped[dict[str, object]] = mapped_column(default=dict)
    config_generation: Mapped[int] = mapped_column(BigInteger, default=1)
    optimization: Mapped[dict[str, object] | None]
    recommendation_id: Mapped[UUID | None]
    next_config: Mapped[dict[str, object] | None]
    last_error: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[dict[str, object]] = mapped_column(default=dict)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)

    @property
    def revision(self) -> int:
        """That requests reach, or will reach first; 0: it was never deployed."""
        return self.serving_revision or self.target_revision or 0


class EndpointRevision(Base):
    __tablename__ = "endpoint_revisions"
    __table_args__ = (
        Index("uq_endpoint_revisions_app_name", "app_name", unique=True),
        # The number is part of the engine's name, which all endpoints of a base share.
        Index("uq_endpoint_revisions_number", "base_digest", "number", unique=True),
        Index(
            "ix_endpoint_revisions_wanted",
            "endpoint_id",
            postgresql_where=text("desired = 'running'"),
        ),
        CheckConstraint("desired IN ('running', 'removed')", name="desired"),
        CheckConstraint("strategy IN ('surge', 'recreate')", name="strategy"),
        CheckConstraint(
            "state IN (" + ", ".join(f"'{state}'" for state in RevisionState) + ")", name="state"
        ),
    )

    endpoint_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    base_digest: Mapped[str] = mapped_column(Text)
    app_name: Mapped[str] = mapped_column(Text)
    config: Mapped[dict[str, object]]
    config_digest: Mapped[str] = mapped_column(Text)
    replicas: Mapped[int]
    applied_replicas: Mapped[int | None]
    desired: Mapped[str] = mapped_column(Text, default="running")
    state: Mapped[str] = mapped_column(Text, default=RevisionState.PENDING)
    strategy: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[dict[str, object]] = mapped_column(default=dict)
    crashes: Mapped[int] = mapped_column(default=0)
    crashing_since: Mapped[datetime | None]
    # By the database's clock: it outlives every supervisor, and no two hosts' clocks are compared.
    deadline_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class SupervisorLease(Base):
    """Who may act on the cluster. The token grows with every new holder and fences old ones."""

    __tablename__ = "supervisor_leases"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    holder: Mapped[str] = mapped_column(Text)
    token: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]
