"""Committed rounds of DiLoCo runs, and what happened to their members."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from foundry.execution.fleets.domain import EVENT_KINDS
from foundry.infra.database import Base, utcnow


class DilocoRound(Base):
    """One committed round. Its key is the order in which rounds are listed.

    Attributes:
        fragment: None: the whole model.
        members: JSON of `domain.MemberShare`; a loss that is no number is null.
        loss, eval_loss: None where it is no number.
        checkpoint: None: the state after this round was not kept.
    """

    __tablename__ = "diloco_rounds"

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[UUID]
    fragment: Mapped[int | None]
    digest: Mapped[str] = mapped_column(Text)
    ledger: Mapped[dict[str, object]]
    members: Mapped[list[dict[str, object]]] = mapped_column(JSONB)
    aborts: Mapped[int]
    seconds: Mapped[float]
    loss: Mapped[float | None]
    eval_loss: Mapped[float | None]
    checkpoint: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(default=utcnow)

    @property
    def checkpointed(self) -> bool:
        return self.checkpoint is not None


class DilocoEvent(Base):
    """One change of a fleet, numbered within its job; never changed, never removed.

    Attributes:
        member: empty where the event concerns them all.
    """

    __tablename__ = "diloco_events"
    __table_args__ = (
        CheckConstraint("kind IN (" + ", ".join(f"'{k}'" for k in EVENT_KINDS) + ")", name="kind"),
    )

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[UUID]
    round: Mapped[int] = mapped_column(BigInteger)
    member: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    detail: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(default=utcnow)
