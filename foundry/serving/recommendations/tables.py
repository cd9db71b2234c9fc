"""Recommendations, the tenants' prices, and what was predicted of deployed revisions."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from foundry.infra.database import Base, utcnow
from foundry.infra.ids import uuid7
from foundry.serving.recommendations.domain import RecommendationState


class Recommendation(Base):
    """One question and its answer.

    Attributes:
        digest: of the question and of all that the answer depends on.
        request: cluster, workload, targets, policy and method.
        prices: the tenant's, at the time of the question.
        learnt: what the site had learnt by then.
    """

    __tablename__ = "recommendations"
    __table_args__ = (
        Index("ix_recommendations_listing", "tenant_id", "project_id", "id"),
        Index(
            "uq_recommendations_digest",
            "tenant_id",
            "project_id",
            "digest",
            unique=True,
            postgresql_where=text("state <> 'FAILED'"),
        ),
        CheckConstraint(
            "state IN (" + ", ".join(f"'{state}'" for state in RecommendationState) + ")",
            name="state",
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID]
    digest: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, default=RecommendationState.PENDING)
    attempt: Mapped[int] = mapped_column(default=0)
    method: Mapped[str] = mapped_column(Text)
    model: Mapped[str | None] = mapped_column(Text)
    config_json: Mapped[dict[str, object]]
    checkpoint_bytes: Mapped[int | None] = mapped_column(BigInteger)
    request: Mapped[dict[str, object]]
    prices: Mapped[dict[str, object]]
    learnt: Mapped[dict[str, object]]
    catalogue_digest: Mapped[str] = mapped_column(Text)
    predictor_version: Mapped[str] = mapped_column(Text)
    result: Mapped[dict[str, object] | None]
    error: Mapped[dict[str, object] | None]
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class PriceList(Base):
    """One version of a tenant's prices; the newest counts. Rows are never changed."""

    __tablename__ = "price_lists"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    prices: Mapped[dict[str, object]]
    created_by: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)


class ProbedHardware(Base):
    """What a node of this site attains, in place of the catalogue's numbers.

    Attributes:
        measured: under the names of `catalogue.Gpu`.
    """

    __tablename__ = "probed_hardware"

    gpu: Mapped[str] = mapped_column(Text, primary_key=True)
    measured: Mapped[dict[str, object]]
    measured_at: Mapped[datetime] = mapped_column(default=utcnow)


class EndpointPrediction(Base):
    """What was predicted of an endpoint's revision, to be compared with what it then does."""

    __tablename__ = "endpoint_predictions"

    endpoint_id: Mapped[UUID] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[UUID]
    recommendation_id: Mapped[UUID | None]
    configuration: Mapped[dict[str, object]]
    workload: Mapped[dict[str, object]]
    predicted: Mapped[dict[str, object]]
    model_version: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=utcnow)
