"""What travels between the coordinator of a fleet and its members: plans, offers, votes.

All of it is small. Payloads lie in chunks where their maker put them, and whoever needs one pulls
it from there; messages only say where.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from foundry.engines.training.diloco.config import Fragment
from foundry.engines.training.diloco.ledger import Shards

MemberState = Literal["joining", "healing", "training", "offering", "reducing", "waiting", "lost"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes that some member can hand out.

    Attributes:
        chunks: one address of each chunk, in order; what an address is, the wire decides.
        size: bytes in all.
        sha256: of the whole, hex.
    """

    chunks: tuple[Any, ...]
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Ready:
    """A member has its workload.

    Attributes:
        digest: of its global state.
        round: the committed round that it stands at.
        total_batches: of the whole fleet's run.
        threads: that its arithmetic uses; another number sums in another order.
    """

    digest: str
    round: int
    total_batches: int
    threads: int


@dataclass(frozen=True, slots=True)
class Status:
    """A member's answer to a ping.

    Attributes:
        round: the committed round that it stands at.
        moved: grows with each step and each byte received: whether it makes progress.
        batches: trained since it started.
        loss: of its last batch, nats.
        sent, received: payload bytes of the exchange.
        healed: bytes of the global state that it sent or received to heal.
    """

    state: MemberState = "joining"
    round: int = 0
    moved: int = 0
    batches: int = 0
    loss: float | None = None
    tokens_per_second: float = 0.0
    sent: int = 0
    received: int = 0
    healed: int = 0


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """What one member does for one round.

    Attributes:
        round: 1, 2, …
        fragment: that is exchanged at its end; None: the whole model.
        shards: batches to train on.
        first_step, stride: batch i has the learning rate of step first_step + i * stride.
        parts: into which each offer is cut.
        overlap: batches that may be trained before the round before this one is committed.
    """

    round: int
    fragment: Fragment
    shards: Shards
    first_step: float
    stride: float
    parts: int
    overlap: int = 0

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(n for shard in self.shards for n in range(shard.start, shard.stop))


@dataclass(frozen=True, slots=True)
class Offer:
    """A member's outer gradient, ready to be pulled.

    Attributes:
        parcels: one for each part.
        weight: in the mean: tokens that moved what is offered since it was last merged.
        batches, tokens: that were in no offer before; tokens are the trained ones.
        loss: mean of those batches, nats.
        seconds: spent training them.
    """

    member: str
    round: int
    parcels: tuple[Parcel, ...]
    weight: float
    batches: int
    tokens: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Contribution:
    """One member's share of a reduction."""

    member: str
    parcels: tuple[Parcel, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Reduction:
    """What a round is made of; the same for everyone, so that everyone gets the same bits.

    Attributes:
        parts: of each offer.
        contributions: sorted by member.
        voters: everyone who takes part, with an offer or without.
        reducers: who averages each part for the others; empty: everyone averages all.
        evaluator: measures the loss of the new outer parameters; empty: nobody.
    """

    round: int
    fragment: Fragment
    parts: int
    contributions: tuple[Contribution, ...]
    voters: tuple[str, ...]
    reducers: tuple[str, ...] = ()
    evaluator: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """Whether a member could make the round's update.

    Attributes:
        digest: of the global state as it would be; empty, if it could not.
        blamed: members whose payloads are damaged or could not be pulled.
        sent, received: payload bytes of the exchange since the member started.
    """

    member: str
    digest: str = ""
    error: str = ""
    blamed: tuple[str, ...] = ()
    eval_loss: float | None = None
    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class CommitOrder:
    """Take the update.

    Attributes:
        merged: the member's own offer is part of it.
        overlap: batches of the next plan to train first.
        snapshot: keep the member's state after it.
        with_global: keep the global state, too.
    """

    round: int
    merged: bool
    overlap: int = 0
    snapshot: bool = False
    with_global: bool = False


@dataclass(frozen=True, slots=True)
class StoredState:
    """Where a checkpoint keeps one file: digest-addressed."""

    object_key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A member's state in the object store.

    Attributes:
        own: live parameters, optimiser, residuals, random numbers, the plan it is on.
        shared: outer parameters and momentum; the same for all, so only one member keeps them.
    """

    own: StoredState
    shared: StoredState | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """A member has taken the update.

    Attributes:
        digest: of its global state.
        problem: why there is no snapshot, although there should be one.
    """

    digest: str
    snapshot: Snapshot | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Loan:
    """A healthy member's global state, for one that heals.

    Attributes:
        digest: of θ and v together, as `GlobalState.digest` has it.
    """

    round: int
    theta: Parcel
    velocity: Parcel
    digest: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A member is where its checkpoint was.

    Attributes:
        plan: what it was on, to be given to it again; None: it had nothing to do.
    """

    digest: str
    plan: RoundPlan | None


@dataclass(frozen=True, slots=True)
class FleetProgress:
    """The live view of a fleet.

    Attributes:
        step, total_steps: committed batches, of how many.
        fleet: one entry per member, ready to be shown as JSON.
        data_bytes, heal_bytes: received by all members so far.
    """

    phase: str
    step: int
    total_steps: int
    loss: float | None
    round: int
    workers: int
    quorum: int
    commits: int
    aborts: int
    data_bytes: int = 0
    heal_bytes: int = 0
    fleet: tuple[Mapping[str, object], ...] = field(default=())
