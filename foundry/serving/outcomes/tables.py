"""Measured windows, outcomes of predictions, corrections, fitted models and advice."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7


class EndpointWindow(Base):
    """One gateway replica's part of one window; statistics of its parts add up.

    Attributes:
        statistics: JSON of `domain.Statistics`.
        closed: the supervisor has looked at the whole window.
    """

    __tablename__ = "endpoint_windows"
    __table_args__ = (
        Index("ix_endpoint_windows_open", "started_at", postgresql_where=text("NOT closed")),
        Index("ix_endpoint_windows_age", "started_at"),
    )

    endpoint_id: Mapped[UUID] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(primary_key=True)
    replica: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    window_s: Mapped[float]
    engine_version: Mapped[str] = mapped_column(Text)
    statistics: Mapped[dict[str, object]]
    closed: Mapped[bool] = mapped_column(default=False)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class PredictionOutcome(Base):
    """What was predicted and what was measured of one revision in one window.

    Attributes:
        source: `gateway` or `load_test`.
        point: the operating point, under the names of `budsim.points.Points`; empty: unknown.
        load: JSON of `domain.Load`.
        predicted: metric → [low, point, high] for that load, as users saw it.
        applied: metric → [factor, spread] of the correction that `predicted` contains.
        covered: metric → whether the measured value lay in the interval.
        n: requests whose TTFT was measured.
    """

    __tablename__ = "prediction_outcomes"
    __table_args__ = (
        UniqueConstraint("endpoint_id", "revision", "started_at", "source"),
        Index("ix_prediction_outcomes_listing", "tenant_id", "id"),
        Index("ix_prediction_outcomes_pair", "gpu", "engine", "started_at"),
        CheckConstraint("source IN ('gateway', 'load_test')", name="source"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    endpoint_id: Mapped[UUID]
    revision: Mapped[int]
    source: Mapped[str] = mapped_column(Text)
    started_at: Mapped[datetime]
    window_s: Mapped[float]
    gpu: Mapped[str] = mapped_column(Text)
    engine: Mapped[str] = mapped_column(Text)
    engine_version: Mapped[str] = mapped_column(Text)
    configuration: Mapped[dict[str, object]]
    configuration_digest: Mapped[str] = mapped_column(Text)
    point: Mapped[dict[str, object]]
    predictor_version: Mapped[str] = mapped_column(Text)
    load: Mapped[dict[str, object]]
    predicted: Mapped[dict[str, object]]
    applied: Mapped[dict[str, object]]
    actual: Mapped[dict[str, object]]
    covered: Mapped[dict[str, object]]
    n: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class BudsimBias(Base):
    """One correction; an empty engine version is the fallback of all versions.

    Attributes:
        measured_at: when the newest window of this version began.
    """

    __tablename__ = "budsim_biases"

    gpu: Mapped[str] = mapped_column(Text, primary_key=True)
    engine: Mapped[str] = mapped_column(Text, primary_key=True)
    engine_version: Mapped[str] = mapped_column(Text, primary_key=True)
    target: Mapped[str] = mapped_column(Text, primary_key=True)
    factor: Mapped[float]
    spread: Mapped[float]
    windows: Mapped[float]
    measured_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class BudsimAlarm(Base):
    """PredictionStale of an accelerator and an engine, by the version that was measured last."""

    __tablename__ = "budsim_alarms"

    gpu: Mapped[str] = mapped_column(Text, primary_key=True)
    engine: Mapped[str] = mapped_column(Text, primary_key=True)
    engine_version: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime] = mapped_column(default=utcnow)


class BudsimModel(Base):
    """A version of the trained predictor; the one that Foundry ships has no row until it is needed.

    Attributes:
        digest: of the packed artifact in the object store; empty: the shipped one.
        cv: split → error of the grouped cross-validation.
        reasons: why it is a shadow.
    """

    __tablename__ = "budsim_models"
    __table_args__ = (
        CheckConstraint("status IN ('active', 'shadow', 'retired')", name="status"),
        Index(
            "uq_budsim_models_active",
            "status",
            unique=True,
            postgresql_where=text("status = 'active'"),
        ),
    )

    version: Mapped[str] = mapped_column(Text, primary_key=True)
    digest: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text, default="shadow")
    cv: Mapped[dict[str, object]]
    reasons: Mapped[list[str]] = mapped_column(default=list)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    promoted_at: Mapped[datetime | None]


class BudsimAdvice(Base):
    """The newest better configuration for a running endpoint.

    Attributes:
        saving: share of the cost, 0 to 1; None: it is about targets, not money.
        recommendation: the recommended configuration with its predictions.
    """

    __tablename__ = "budsim_advice"
    __table_args__ = (Index("ix_budsim_advice_listing", "tenant_id", "endpoint_id"),)

    endpoint_id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    revision: Mapped[int]
    reason: Mapped[str] = mapped_column(Text)
    saving: Mapped[float | None]
    recommendation_id: Mapped[UUID | None]
    recommendation: Mapped[dict[str, object]]
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
