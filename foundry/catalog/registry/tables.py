"""Rows of the registry. Only stage and tombstone columns of a version ever change (a trigger)."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from foundry.catalog.registry.domain import Stage, Version
from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7


class Model(Base):
    __tablename__ = "models"
    __table_args__ = (
        # Under collation C this index also serves prefix search.
        UniqueConstraint("tenant_id", "name"),
        CheckConstraint("kind IN ('base', 'adapter', 'merged')", name="kind"),
        CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name="name"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID]
    name: Mapped[str] = mapped_column(Text(collation="C"))
    kind: Mapped[str] = mapped_column(Text)
    architecture: Mapped[str | None] = mapped_column(Text)
    parameter_count: Mapped[int | None] = mapped_column(BigInteger)
    context_length: Mapped[int | None]
    licence: Mapped[str | None] = mapped_column(Text)
    tags: Mapped[list[str]] = mapped_column(default=list)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    deleted_at: Mapped[datetime | None]


class ModelVersion(Base):
    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("model_id", "major", "minor", "patch", "pre_key"),
        Index("ix_model_versions_parent_version_id", "parent_version_id"),
        Index("ix_model_versions_base_version_id", "base_version_id"),
        Index(
            "ix_model_versions_dataset_version_id",
            "dataset_version_id",
            postgresql_where=text("dataset_version_id IS NOT NULL"),
        ),
        Index(
            "ix_model_versions_live",
            "model_id",
            "major",
            "minor",
            "patch",
            "pre_key",
            postgresql_where=text("stage <> 'tombstoned'"),
        ),
        # Registering a job's result again finds the first one.
        Index(
            "uq_model_versions_job",
            "tenant_id",
            "job_id",
            "digest",
            unique=True,
            postgresql_where=text("job_id IS NOT NULL"),
        ),
        CheckConstraint(
            "stage IN ('uploading', 'scanning', 'ready', 'quarantined', 'deprecated',"
            " 'tombstoned')",
            name="stage",
        ),
        CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name="digest"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id", ondelete="RESTRICT"))
    major: Mapped[int]
    minor: Mapped[int]
    patch: Mapped[int]
    pre: Mapped[str] = mapped_column(Text)
    pre_key: Mapped[str] = mapped_column(Text(collation="C"))
    build: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    parent_version_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("model_versions.id", ondelete="RESTRICT")
    )
    base_version_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("model_versions.id", ondelete="RESTRICT")
    )
    relation: Mapped[str] = mapped_column(Text)
    stage: Mapped[str] = mapped_column(Text)
    digest: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    job_id: Mapped[UUID | None]
    dataset_version_id: Mapped[UUID | None]
    architecture: Mapped[str | None] = mapped_column(Text)
    parameter_count: Mapped[int | None] = mapped_column(BigInteger)
    context_length: Mapped[int | None]
    lora_rank: Mapped[int | None]
    lora_targets: Mapped[list[str] | None]
    config_digest: Mapped[str | None] = mapped_column(Text)
    code_ref: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    tombstoned_at: Mapped[datetime | None]
    tombstoned_by: Mapped[str | None] = mapped_column(Text)
    tombstone_reason: Mapped[str | None] = mapped_column(Text)

    model: Mapped[Model] = relationship(lazy="raise")

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def semver(self) -> Version:
        return Version(self.major, self.minor, self.patch, self.pre, self.build)

    @property
    def version(self) -> str:
        return str(self.semver)

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def usable(self) -> bool:
        return self.stage in (Stage.READY, Stage.DEPRECATED)


class VersionParent(Base):
    """Further parents of a merge; inserted in the child's transaction only."""

    __tablename__ = "version_parents"
    __table_args__ = (Index("ix_version_parents_parent_id", "parent_id"),)

    child_id: Mapped[UUID] = mapped_column(
        ForeignKey("model_versions.id", ondelete="RESTRICT"), primary_key=True
    )
    parent_id: Mapped[UUID] = mapped_column(
        ForeignKey("model_versions.id", ondelete="RESTRICT"), primary_key=True
    )
    tenant_id: Mapped[UUID]
    relation: Mapped[str] = mapped_column(Text)


class Blob(Base):
    __tablename__ = "blobs"
    __table_args__ = (
        Index(
            "uq_blobs_live",
            "tenant_id",
            "sha256",
            unique=True,
            postgresql_where=text("state = 'live'"),
        ),
        Index("ix_blobs_object_key", "object_key"),
        Index(
            "ix_blobs_unused",
            "created_at",
            postgresql_where=text("state = 'deleting' OR refcount = 0"),
        ),
        CheckConstraint("state IN ('live', 'deleting', 'deleted')", name="state"),
        CheckConstraint("refcount >= 0", name="refcount"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, default="live")
    refcount: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class VersionFile(Base):
    __tablename__ = "version_files"
    __table_args__ = (Index("ix_version_files_blob_id", "blob_id"),)

    version_id: Mapped[UUID] = mapped_column(
        ForeignKey("model_versions.id", ondelete="RESTRICT"), primary_key=True
    )
    path: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    tenant_id: Mapped[UUID]
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(Text)
    blob_id: Mapped[UUID] = mapped_column(ForeignKey("blobs.id", ondelete="RESTRICT"))

    blob: Mapped[Blob] = relationship(lazy="raise")


class Alias(Base):
    __tablename__ = "model_aliases"
    __table_args__ = (
        Index("ix_model_aliases_version_id", "version_id"),
        CheckConstraint("name <> 'latest' AND name ~ '^[a-z][a-z0-9_-]{0,62}$'", name="name"),
    )

    model_id: Mapped[UUID] = mapped_column(
        ForeignKey("models.id", ondelete="RESTRICT"), primary_key=True
    )
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID]
    version_id: Mapped[UUID] = mapped_column(ForeignKey("model_versions.id", ondelete="RESTRICT"))
    row_version: Mapped[int] = mapped_column(BigInteger, default=1)
    protected: Mapped[bool]
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)

    target: Mapped[ModelVersion] = relationship(lazy="raise")

    @property
    def version(self) -> str:
        return self.target.version


class AliasEvent(Base):
    """The history of aliases; a trigger refuses UPDATE and DELETE."""

    __tablename__ = "alias_events"
    __table_args__ = (Index("ix_alias_events_listing", "model_id", "alias", "id"),)

    # Drawn under the alias's row lock, so its order is the order of the moves.
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant_id: Mapped[UUID]
    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id", ondelete="RESTRICT"))
    alias: Mapped[str] = mapped_column(Text)
    from_version_id: Mapped[UUID | None]
    to_version_id: Mapped[UUID | None]
    actor: Mapped[str] = mapped_column(Text)
    reason: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(default=utcnow)


class VersionMetric(Base):
    __tablename__ = "version_metrics"

    version_id: Mapped[UUID] = mapped_column(
        ForeignKey("model_versions.id", ondelete="RESTRICT"), primary_key=True
    )
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[UUID]
    value: Mapped[float]
    at: Mapped[datetime] = mapped_column(default=utcnow)
