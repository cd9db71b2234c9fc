"""A round that is open: who trains for it, what has been offered, what hangs on it."""

import asyncio
from dataclasses import dataclass, field
from statistics import median

from foundry.engines.training.diloco.ledger import Shards
from foundry.execution.fleets.domain import MemberShare
from foundry.execution.workers.diloco.exchange import Agreement
from foundry.execution.workers.diloco.messages import Offer
from foundry.execution.workers.diloco.planning import Outline
from foundry.execution.workers.diloco.roster import Seat


@dataclass(eq=False, slots=True)
class OpenRound:
    """A round that is being trained and not agreed on yet.

    Attributes:
        needed: offers without which it cannot be closed.
        tasks: training, by seat; those still running when it is closed are late.
        undecided: shards of the offers of a closed round, which count once all have agreed.
        aborts: attempts that failed.
    """

    outline: Outline
    needed: int
    began: float
    tasks: dict[Seat, asyncio.Task[Offer | None]] = field(default_factory=dict)
    offers: dict[Seat, Offer] = field(default_factory=dict)
    undecided: dict[str, Shards] = field(default_factory=dict)
    aborts: int = 0
    agreement: Agreement | None = None
    committed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def number(self) -> int:
        return self.outline.round

    @property
    def over(self) -> bool:
        """All have agreed on it."""
        return self.agreement is not None or self.committed.is_set()

    def release_payloads(self) -> None:
        """Nobody can adopt it any more."""
        self.offers.clear()
        self.agreement = None

    def take_offers(self) -> None:
        """Move what is finished from tasks to offers."""
        for seat in [seat for seat, task in self.tasks.items() if task.done()]:
            offer = self.tasks.pop(seat).result()
            if offer is not None:
                self.offers[seat] = offer
                seat.measured(offer.seconds, offer.batches)

    def forget(self, seat: Seat) -> Shards:
        """The seat is lost. Returns the shards that nobody has trained any more."""
        if task := self.tasks.pop(seat, None):
            task.cancel()
        self.offers.pop(seat, None)
        return self.undecided.pop(seat.name, ())

    def usual_speed(self) -> float | None:
        """Median seconds per batch of those who have been measured."""
        return median(self._speeds()) if self._speeds() else None

    def expected_s(self, interval: int) -> float:
        """How long it takes, about, until the offers are there that it needs."""
        fastest = sorted(self._speeds())[: self.needed]
        return interval * fastest[-1] if fastest else 0.0

    def _speeds(self) -> list[float]:
        known = [seat.seconds_per_batch for seat in (*self.tasks, *self.offers)]
        return [speed for speed in known if speed is not None]

    def shares(self, agreement: Agreement, seats: list[Seat]) -> tuple[MemberShare, ...]:
        """What each member did, and how many bytes of the exchange it took since its last vote."""
        out = []
        for seat in seats:
            vote, offer = agreement.votes[seat.name], self.offers.get(seat)
            out.append(
                MemberShare(
                    member=seat.name,
                    node=seat.node,
                    merged=offer is not None,
                    batches=offer.batches if offer else 0,
                    tokens=offer.tokens if offer else 0,
                    loss=offer.loss if offer else 0.0,
                    train_seconds=offer.seconds if offer else 0.0,
                    bytes_sent=vote.sent - seat.sent,
                    bytes_received=vote.received - seat.received,
                )
            )
            seat.sent, seat.received = vote.sent, vote.received
        return tuple(out)
