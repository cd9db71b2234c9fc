"""One round's exchange: everyone makes the update in scratch space and votes; all or nothing."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from foundry.engines.training.diloco.config import Fragment
from foundry.errors import EngineFailed
from foundry.execution.fleets.domain import EventKind
from foundry.execution.workers.diloco.messages import Contribution, Offer, Parcel, Reduction, Vote
from foundry.execution.workers.diloco.planning import reducers
from foundry.execution.workers.diloco.roster import Roster, Seat

T = TypeVar("T")

# The same members disagree so often before those who complain are taken out.
_PATIENCE = 2


@dataclass(frozen=True, slots=True)
class Agreement:
    """All have made the same update, and none has taken it yet.

    Attributes:
        forwarded: the averaged parts, for those who adopt it later; None: from the offers.
        digest: of the global state with it.
        votes: by member.
    """

    reduction: Reduction
    forwarded: tuple[Parcel, ...] | None
    digest: str
    votes: Mapping[str, Vote]
    eval_loss: float | None


Aborted = Callable[[str], None]


class Exchange:
    """Tries until all agree, or too few are left.

    Args:
        offers: of this round, by seat; whoever is lost disappears from it.
        observers: without an offer of their own; they take part all the same.
        before: digest of the global state that the update starts from.
        aborted: told why an attempt failed.
    """

    def __init__(
        self,
        roster: Roster,
        offers: dict[Seat, Offer],
        observers: Sequence[Seat],
        *,
        round: int,
        fragment: Fragment,
        parts: int,
        before: str,
        evaluates: bool,
        aborted: Aborted,
    ) -> None:
        self._roster = roster
        self._offers = offers
        self._observers = list(observers)
        self._round = round
        self._fragment = fragment
        self._parts = parts
        self._before = before
        self._evaluates = evaluates
        self._aborted = aborted
        self._reducers: tuple[str, ...] = ()
        self._fruitless = 0

    async def agree(self, needed: int) -> Agreement | None:
        """Have the members agree on the reduced update.

        None: fewer than `needed` offers are left.
        """
        while len(self._offers) >= needed:
            seats = self._seats()
            agreement = await self._attempt(seats)
            if agreement is not None:
                return agreement
        return None

    def _seats(self) -> list[Seat]:
        """Everyone who takes part, sorted."""
        observers = [seat for seat in self._observers if seat.phase == "healthy"]
        return sorted([*self._offers, *observers], key=lambda seat: seat.name)

    async def _attempt(self, seats: list[Seat]) -> Agreement | None:
        reduction = self._reduction(seats)
        forwarded: tuple[Parcel, ...] | None = None
        if reduction.reducers:
            shared = await self._shared(seats, reduction)
            if shared is None:
                return None
            forwarded = shared
        votes = await self._votes(seats, reduction, forwarded)
        if votes is None:
            return None
        digests = {vote.digest for vote in votes.values()}
        if len(digests) == 1:
            losses = [v.eval_loss for v in votes.values() if v.eval_loss is not None]
            loss = losses[0] if losses else None
            return Agreement(reduction, forwarded, digests.pop(), votes, loss)
        await self._out_of_line(seats, votes)
        return None

    def _reduction(self, seats: Sequence[Seat]) -> Reduction:
        offers = sorted(self._offers.values(), key=lambda offer: offer.member)
        names = [offer.member for offer in offers]
        self._reducers = reducers(names, self._parts, self._reducers)
        return Reduction(
            self._round,
            self._fragment,
            self._parts,
            tuple(Contribution(o.member, o.parcels, o.weight) for o in offers),
            tuple(seat.name for seat in seats),
            self._reducers,
            names[0] if self._evaluates else "",
        )

    async def _shared(
        self, seats: Sequence[Seat], reduction: Reduction
    ) -> tuple[Parcel, ...] | None:
        """The averaged parts, in order."""
        working = [seat for seat in seats if seat.name in reduction.reducers]
        answers: list[tuple[Parcel, ...] | Vote] | None = await self._answers(
            working, seats, lambda seat: self._roster.ask(seat, seat.member.share, reduction)
        )
        if answers is None:
            return None
        refused = [answer for answer in answers if isinstance(answer, Vote)]
        if refused:
            self._refused(seats, refused)
            return None
        averaged = {
            seat.name: list(answer)
            for seat, answer in zip(working, answers, strict=True)
            if not isinstance(answer, Vote)
        }
        return tuple(averaged[name].pop(0) for name in reduction.reducers)

    async def _votes(
        self, seats: Sequence[Seat], reduction: Reduction, forwarded: tuple[Parcel, ...] | None
    ) -> dict[str, Vote] | None:
        answers = await self._answers(
            seats,
            seats,
            lambda seat: self._roster.ask(seat, seat.member.reduce, reduction, forwarded),
        )
        if answers is None:
            return None
        refused = [vote for vote in answers if not vote.digest]
        if refused:
            self._refused(seats, refused)
            return None
        return {vote.member: vote for vote in answers}

    async def _answers(
        self,
        asked: Sequence[Seat],
        involved: Sequence[Seat],
        ask: Callable[[Seat], Coroutine[Any, Any, T | None]],
    ) -> list[T] | None:
        """Everybody's answers; None: someone is lost, and the others were told to stop."""
        tasks = [asyncio.ensure_future(ask(seat)) for seat in asked]
        lost = [asyncio.ensure_future(seat.gone.wait()) for seat in involved]
        done = asyncio.gather(*tasks)
        waiters: set[asyncio.Future[Any]] = {done, *lost}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in lost:
                waiter.cancel()
        gone = [seat.name for seat in involved if seat.phase == "lost"]
        if not gone:
            return [answer for answer in await done if answer is not None]
        self._aborted(f"lost {', '.join(gone)}")
        left = [seat for seat in involved if seat.phase != "lost"]
        await asyncio.gather(*(self._roster.ask(seat, seat.member.abandon) for seat in left))
        await done
        return None

    def _refused(self, seats: Sequence[Seat], votes: Sequence[Vote]) -> None:
        """Take out whom the others blame; if they do not agree whom, those who keep complaining."""
        error = next(vote.error for vote in votes)
        self._aborted(error)
        blamed = Counter(name for vote in votes for name in vote.blamed)
        others = len(seats) - 1
        guilty = [seat for seat in seats if 2 * blamed[seat.name] > others]
        self._fruitless += 1
        if not guilty and self._fruitless > _PATIENCE:
            complaining = {vote.member for vote in votes}
            guilty = [seat for seat in seats if seat.name in complaining]
        self._take_out(guilty, "corrupt", error)

    async def _out_of_line(self, seats: Sequence[Seat], votes: Mapping[str, Vote]) -> None:
        """Equal inputs gave unequal bits: whoever is in the minority is damaged."""
        self._aborted("the members made different updates")
        (most, count), *_ = Counter(vote.digest for vote in votes.values()).most_common()
        self._fruitless += 1
        if 2 * count > len(votes):
            guilty = [seat for seat in seats if votes[seat.name].digest != most]
            self._take_out(guilty, "corrupt", "it made another update than the others")
        elif self._fruitless > _PATIENCE:
            await self._compare_states(seats)

    async def _compare_states(self, seats: Sequence[Seat]) -> None:
        """No majority: whoever has left the committed state is damaged."""
        standing = await asyncio.gather(
            *(self._roster.ask(seat, seat.member.standing) for seat in seats)
        )
        pairs = list(zip(seats, standing, strict=True))
        guilty = [seat for seat, ready in pairs if ready and ready.digest != self._before]
        if not guilty and all(standing):
            raise EngineFailed(
                "the members keep making different updates from the same payloads, and no "
                "majority agrees: check the memory of their machines, then resume the job"
            )
        self._take_out(guilty, "corrupt", "its state is not the committed one")

    def _take_out(self, seats: Sequence[Seat], kind: EventKind, detail: str) -> None:
        for seat in seats:
            self._roster.lose(seat, kind, detail)
