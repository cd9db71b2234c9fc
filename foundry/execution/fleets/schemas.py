"""Wire models of rounds and membership."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class MemberShareOut(BaseModel):
    """What one member did in a round."""

    member: str
    node: str
    merged: bool = Field(description="its work is in this round's update, not in a later one's")
    batches: int
    tokens: int
    loss: float | None
    train_seconds: float
    bytes_sent: int
    bytes_received: int


class RoundOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    round: int
    fragment: int | None = Field(description="that was exchanged; null: the whole model")
    digest: str = Field(description="of the outer parameters and momentum after it, hex")
    members: list[MemberShareOut]
    aborts: int = Field(description="attempts at this round that failed")
    seconds: float
    loss: float | None
    eval_loss: float | None
    checkpointed: bool = Field(description="the run can resume after this round")
    created_at: datetime


class RoundList(BaseModel):
    data: list[RoundOut]


class FleetEventOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    seq: int
    round: int = Field(description="the newest committed one at that time; 0: none")
    member: str = Field(description="empty: all of them")
    kind: str
    detail: str
    at: datetime


class FleetEventList(BaseModel):
    data: list[FleetEventOut]
