"""Wire models of rounds and membership."""

from datetime import datetime

from pydantic import BaseModel, Field

from foundry.infra.schemas import Out


class MemberShareOut(BaseModel):
    """What one member did in a round."""

    member: str = Field(description="name of the worker")
    node: str = Field(description="where it ran")
    merged: bool = Field(description="its work is in this round's update, not in a later one's")
    batches: int = Field(description="that it trained on")
    tokens: int = Field(description="that it trained on")
    loss: float | None
    train_seconds: float = Field(description="that it computed for")
    bytes_sent: int = Field(description="to the others")
    bytes_received: int = Field(description="from the others")


class RoundOut(Out):
    """A round whose update every worker has."""

    round: int
    fragment: int | None = Field(description="that was exchanged; null: the whole model")
    digest: str = Field(description="of the outer parameters and momentum after it, hex")
    members: list[MemberShareOut] = Field(description="what each of them did")
    aborts: int = Field(description="attempts at this round that failed")
    seconds: float = Field(description="from the round before to this one")
    loss: float | None
    eval_loss: float | None = Field(
        description="mean loss on held-out rows, in nats; null: not measured"
    )
    checkpointed: bool = Field(description="the run can resume after this round")
    created_at: datetime


class RoundList(BaseModel):
    """Rounds of a job, oldest first."""

    data: list[RoundOut]


class FleetEventOut(Out):
    """Something that happened to a member."""

    seq: int = Field(description="number of the event, from 1")
    round: int = Field(description="the newest committed one at that time; 0: none")
    member: str = Field(description="empty: all of them")
    kind: str
    detail: str = Field(description="what happened, in words")
    at: datetime


class FleetEventList(BaseModel):
    """Events of a job's members, oldest first."""

    data: list[FleetEventOut]
