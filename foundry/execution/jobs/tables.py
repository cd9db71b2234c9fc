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
    """One job over all its attempts.

    Attributes:
        needs: what its workers reserve, as `placement.Needs` writes it.
        waiting_for: why it has not begun, in words.
        attempt: of the newest submission; numbers only grow, so a submission id is used once.
        failures: attempts that did not end the job since a person last queued it.
        submitted_at: when Ray took the newest attempt; unset: it may not know it.
        progress_at: when something new was last seen; with `progress_allowance_s` a deadline by
            the database's clock.
        retry_at: when the next attempt may begin after one that failed.
        log_key: where the object store keeps the log up to chunk `log_seq`, `log_bytes` long;
            later chunks are rows.
        collected_at: when the traces of an ended job were removed.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_listing", "tenant_id", "project_id", "id"),
        Index("ix_jobs_name", "tenant_id", "project_id", "name", "id"),
        Index("ix_jobs_active", "id", postgresql_where=text(f"state IN ({_ACTIVE_SQL})")),
        Index("ix_jobs_fingerprint", "tenant_id", "fingerprint", "id"),
        Index(
            "ix_jobs_queue", text("priority DESC"), "id", postgresql_where=text("state = 'QUEUED'")
        ),
        Index("ix_jobs_log_key", "log_key", postgresql_where=text("log_key IS NOT NULL")),
        Index("ix_jobs_uncollected", "finished_at", postgresql_where=text("collected_at IS NULL")),
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
    failures: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(default=0)
    needs: Mapped[dict[str, object]] = mapped_column(default=dict)
    waiting_for: Mapped[str | None] = mapped_column(Text)
    submission_id: Mapped[str | None] = mapped_column(Text)
    submitted_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    phase: Mapped[str | None] = mapped_column(Text)
    progress_at: Mapped[datetime | None]
    progress_allowance_s: Mapped[float | None]
    retry_at: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    cancel_requested_at: Mapped[datetime | None]
    progress: Mapped[dict[str, object]] = mapped_column(default=dict)
    error: Mapped[dict[str, object] | None]
    result: Mapped[dict[str, object] | None]
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    log_key: Mapped[str | None] = mapped_column(Text)
    log_seq: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    log_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    collected_at: Mapped[datetime | None]


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


class JobCheckpoint(Base):
    """The state of a run after a step; the row is written last, so what it names is whole."""

    __tablename__ = "job_checkpoints"
    __table_args__ = (
        Index("ix_job_checkpoints_newest", "job_id", "fence", "step"),
        Index("ix_job_checkpoints_object_key", "object_key"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    tenant_id: Mapped[UUID]
    fence: Mapped[int] = mapped_column(BigInteger)
    step: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    document: Mapped[dict[str, object]]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
