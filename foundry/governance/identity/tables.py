"""Tenants contain projects contain everything else."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from foundry.governance.identity.domain import KeyState, Role, list_granted, narrow_scopes
from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7


class Tenant(Base):
    __tablename__ = "tenants"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class Project(Base):
    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class ApiKey(Base):
    __tablename__ = "api_keys"
    __table_args__ = (
        Index("ix_api_keys_listing", "tenant_id", "created_at", "id"),
        CheckConstraint("role IN ('viewer', 'member', 'admin')", name="role"),
        CheckConstraint("octet_length(prefilter) = 8", name="prefilter"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(Text)
    environment: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(Text)
    prefilter: Mapped[bytes] = mapped_column(LargeBinary)
    subject: Mapped[str] = mapped_column(Text)
    subject_type: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text, default=Role.VIEWER)
    # The permissions that it was limited to when it was made.
    asked_scopes: Mapped[list[str]] = mapped_column("scopes")
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]

    @property
    def state(self) -> KeyState:
        if self.revoked_at is not None:
            return KeyState.REVOKED
        expired = self.expires_at <= datetime.now(UTC)
        return KeyState.EXPIRED if expired else KeyState.ACTIVE

    @property
    def permissions(self) -> list[str]:
        """What the key may do: what its role has and its scopes cover."""
        return list_granted(Role(self.role), self.asked_scopes)

    @property
    def scopes(self) -> list[str]:
        """Its scopes without what its role does not have."""
        return narrow_scopes(Role(self.role), self.asked_scopes)

    @property
    def limited(self) -> bool:
        """Whether its scopes take something from its role."""
        return self.permissions != list_granted(Role(self.role))
