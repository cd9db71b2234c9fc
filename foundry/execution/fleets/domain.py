"""One committed round of a fleet, and what happened to its members."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

EventKind = Literal[
    "joined",
    "healed",
    "left",
    "died",
    "silent",
    "stalled",
    "late",
    "corrupt",
    "aborted",
    "resumed",
]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)


@dataclass(frozen=True, slots=True)
class MemberShare:
    """What one member did in a round.

    Attributes:
        node: where it ran.
        merged: whether its work is in this round's update; late work waits for the next one.
        batches, tokens: trained for this round.
        loss: mean of its batches.
        train_seconds: of wall clock.
        bytes_sent, bytes_received: payload of the exchange, in this round.
    """

    member: str
    node: str
    merged: bool
    batches: int
    tokens: int
    loss: float
    train_seconds: float
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A round that all its participants agreed on.

    Attributes:
        round: 1, 2, … without gaps.
        fragment: that was exchanged; None: the whole model.
        digest: of the outer parameters and momentum after it, hex.
        ledger: which batches are trained, given out and left.
        aborts: attempts at this round that failed.
        seconds: of wall clock, with the failed attempts.
        loss: mean over the merged members' batches.
        checkpoint: where the fleet's state after this round lies; None: it was not kept.
    """

    round: int
    fragment: int | None
    digest: str
    ledger: dict[str, Any]
    members: tuple[MemberShare, ...]
    aborts: int
    seconds: float
    loss: float
    eval_loss: float | None = None
    checkpoint: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """Something that changed the fleet.

    Attributes:
        round: the newest committed one when it happened; 0: none.
        member: empty where the event concerns them all.
    """

    round: int
    member: str
    kind: EventKind
    detail: str = ""
