"""Datasets and their versions, of which only the columns of a deletion ever change (a trigger).

live ──deleted──> a tombstone ──its objects removed──> collected
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7
from foundry.infra.objects import FileRef


class Dataset(Base):
    __tablename__ = "datasets"
    __table_args__ = (
        UniqueConstraint("tenant_id", "project_id", "name"),
        CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,127}$'", name="name"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID]
    name: Mapped[str] = mapped_column(Text(collation="C"))
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class DatasetVersion(Base):
    """What was added at once.

    Attributes:
        deleted_at: since then the row only says what the version was: lineages name it, and its
            number is never given to another.
        collected_at: when its objects were removed.
    """

    __tablename__ = "dataset_versions"
    __table_args__ = (
        UniqueConstraint("dataset_id", "number"),
        # The same bytes are the same version: adding them again adds nothing.
        Index(
            "uq_dataset_versions_digest",
            "dataset_id",
            "digest",
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
        # Lists show the newest version of each dataset and count them.
        Index(
            "ix_dataset_versions_live",
            "dataset_id",
            "number",
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(
            "ix_dataset_versions_uncollected",
            "deleted_at",
            postgresql_where=text("deleted_at IS NOT NULL AND collected_at IS NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID]
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id", ondelete="RESTRICT"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    train_rows: Mapped[int] = mapped_column(BigInteger)
    eval_rows: Mapped[int] = mapped_column(BigInteger)
    duplicate_rows: Mapped[int] = mapped_column(BigInteger)
    bad_rows: Mapped[int] = mapped_column(BigInteger)
    options: Mapped[dict[str, object]]
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    deleted_at: Mapped[datetime | None]
    deleted_by: Mapped[str | None] = mapped_column(Text)
    delete_reason: Mapped[str | None] = mapped_column(Text)
    collected_at: Mapped[datetime | None]

    dataset: Mapped[Dataset] = relationship(lazy="raise")
    stored_files: Mapped[list["DatasetFile"]] = relationship(
        lazy="raise", order_by="DatasetFile.path"
    )

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def reference(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def files(self) -> tuple[FileRef, ...]:
        return tuple(
            FileRef(file.path, file.sha256, file.size, file.object_key)
            for file in self.stored_files
        )


class DatasetFile(Base):
    __tablename__ = "dataset_files"
    __table_args__ = (Index("ix_dataset_files_object_key", "object_key"),)

    version_id: Mapped[UUID] = mapped_column(
        ForeignKey("dataset_versions.id", ondelete="RESTRICT"), primary_key=True
    )
    path: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID]
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str] = mapped_column(Text)
