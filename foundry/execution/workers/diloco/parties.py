"""Whom the coordinator deals with: members, those who start them, and the log of the rounds."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from foundry.execution.fleets.domain import FleetEvent, RoundRecord
from foundry.execution.workers.diloco.messages import (
    CommitOrder,
    Committed,
    Loan,
    Offer,
    Parcel,
    Ready,
    Reduction,
    Resumed,
    RoundPlan,
    Snapshot,
    Status,
    Vote,
)
from foundry.execution.workers.messages import Publication, Published


class MemberHandle(Protocol):
    """A member in another process. Each call raises EngineFailed once that process is gone."""

    @property
    def name(self) -> str: ...

    @property
    def node(self) -> str:
        """Where it runs."""

    @property
    def pid(self) -> int:
        """Number of the member's process on its node."""

    async def prepare(self) -> Ready: ...

    async def standing(self) -> Ready:
        """Where it stands now."""

    async def status(self) -> Status:
        """Answered at once, whatever else the member does."""

    async def train(self, plan: RoundPlan) -> Offer: ...

    async def halt(self) -> None: ...

    async def share(self, reduction: Reduction) -> tuple[Parcel, ...] | Vote: ...

    async def reduce(self, reduction: Reduction, forwarded: tuple[Parcel, ...] | None) -> Vote: ...

    async def abandon(self) -> None: ...

    async def commit(self, order: CommitOrder) -> Committed: ...

    async def lend(self) -> Loan: ...

    async def heal(self, loan: Loan, *, keep_work: bool = False) -> Ready: ...

    async def snapshot(self, with_global: bool) -> Snapshot: ...

    async def restore(self, snapshot: Snapshot) -> Resumed: ...

    async def publish(self, publication: Publication, history: Mapping[str, Any]) -> Published:
        """Register the model with the outer parameters; `history` lies beside its weights."""

    def kill(self) -> None:
        """End it at once; it need not be alive, nor reachable."""


class Spawner(Protocol):
    """Starts members where there is room."""

    async def spawn(self, name: str) -> MemberHandle:
        """Wait for room, then for the process.

        Raises:
            EngineFailed: it did not start.
        """


class RoundLog(Protocol):
    """What counts. Every write raises LeaseLost once another coordinator has taken over."""

    async def commit(self, record: RoundRecord, events: Sequence[FleetEvent] = ()) -> None:
        """Make a round count. Raises Conflict: it is not the round after the newest one."""

    async def keep(self, round: int, checkpoint: dict[str, Any] | None) -> None:
        """Note where the state after a committed round lies; replaces an earlier note.

        Args:
            checkpoint: None: it is not kept any more.
        """

    async def note(self, events: Sequence[FleetEvent]) -> None: ...

    async def newest(self) -> RoundRecord | None: ...

    async def checkpoints(self) -> Sequence[RoundRecord]:
        """Rounds after which the fleet's state is kept, oldest first."""

    async def rewind(self, round: int) -> None:
        """Rounds after `round` never happened."""
