"""Jobs, what they measured and what they said."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from foundry.execution.jobs.domain import ACTIVE, JobState
from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7

_ACTIVE_SQL = ", ".join(f"'{state}'" for state in sorted(ACTIVE))


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_listing", "tenant_id", "project_id", "id"),
        Index("ix_jobs_active", "id", postgresql_where=text(f"state IN ({_ACTIVE_SQL})")),
        Index("ix_jobs_fingerprint", "tenant_id", "fingerprint", "id"),
        CheckConstraint(
            "state IN (" + ", ".join(f"'{state}'" for state in JobState) + ")", name="state"
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID]
    kind: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    spec: Mapped[dict[str, object]]
    fingerprint: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, default=JobState.QUEUED)
    attempt: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(BigInteger, default=0)
    submission_id: Mapped[str | None] = mapped_column(Text)
    heartbeat_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[dict[str, object]] = mapped_column(default=dict)
    error: Mapped[dict[str, object] | None]
    result: Mapped[dict[str, object] | None]
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobMetric(Base):
    __tablename__ = "job_metrics"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    tenant_id: Mapped[UUID]
    value: Mapped[float]
    at: Mapped[datetime] = mapped_column(default=utcnow)


class JobLog(Base):
    __tablename__ = "job_logs"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[UUID]
    text: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(default=utcnow)
