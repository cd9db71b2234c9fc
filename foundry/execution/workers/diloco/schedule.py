"""Who works on which round: plans, latecomers, and those who join in the middle."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from foundry.engines.training.diloco.config import DilocoConfig
from foundry.execution.workers.diloco import planning
from foundry.execution.workers.diloco.accounts import Accounts
from foundry.execution.workers.diloco.committing import Committer
from foundry.execution.workers.diloco.healing import Admission
from foundry.execution.workers.diloco.messages import CommitOrder, Offer, RoundPlan
from foundry.execution.workers.diloco.planning import Outline
from foundry.execution.workers.diloco.roster import Roster, Seat
from foundry.execution.workers.diloco.rounds import OpenRound

# Payloads of so many rounds are kept for late members; who is later still pulls the whole state.
_ADOPTABLE = 8
# A donor that is taking an update itself can lend a moment later.
_REBASES = 20
_RETRY_S = 0.5


class Schedule:
    """The open rounds of one fleet.

    Attributes:
        now: the round that is trained for or agreed on.
        next: trained for already, while `now` is exchanged.
        before: the round that was committed last; those who missed it adopt it.
    """

    def __init__(
        self,
        config: DilocoConfig,
        accounts: Accounts,
        roster: Roster,
        committer: Committer,
        admission: Admission,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._accounts = accounts
        self._roster = roster
        self._committer = committer
        self._admission = admission
        self._clock = clock
        self.now: OpenRound | None = None
        self.next: OpenRound | None = None
        self.before: OpenRound | None = None
        self._adoptable: deque[OpenRound] = deque()

    def plan(self) -> OpenRound:
        """Give out the batches of the next round to everyone who is on time."""
        accounts, outer = self._accounts, self._config.outer
        number = (self.now.number if self.now else accounts.round) + 1
        before = self.now or self.before
        late = dict(before.tasks) if before else {}
        on_time = [
            seat
            for seat in self._roster.healthy
            if seat.round == accounts.round and seat not in late
        ]
        speeds = {seat.name: seat.seconds_per_batch for seat in on_time}
        ledger = accounts.ledger
        accounts.ledger, given = ledger.assign(planning.counts(speeds, outer.interval))
        fragment = planning.fragment(outer, number, ledger, given)
        # The whole model goes at the end: whoever has trained any of it has something to offer.
        training = [seat for seat in on_time if given[seat.name] or fragment is None]
        members = len(training) + len(late)
        outline = planning.outline(self._config, number, fragment, ledger, given, members)
        opened = OpenRound(outline, min(self._config.fleet.needed, members), self._clock())
        overlap = outer.overlap if self.now else 0
        for seat in training:
            self._assign(opened, seat, outline.plan(given[seat.name], overlap))
        for seat, task in late.items():
            if before is not None:
                opened.tasks[seat] = asyncio.ensure_future(
                    self._catch_up(seat, task, before, opened)
                )
        return opened

    def _assign(self, opened: OpenRound, seat: Seat, plan: RoundPlan) -> None:
        opened.tasks[seat] = asyncio.ensure_future(self._roster.ask(seat, seat.member.train, plan))

    async def _catch_up(
        self,
        seat: Seat,
        task: "asyncio.Task[Offer | None]",
        missed: OpenRound,
        opened: OpenRound,
    ) -> Offer | None:
        """A late member takes what it missed, and joins the round that is open.

        As long as it takes: a round that is over by then leaves it to the next one.
        """
        offer = await task
        if offer is None:
            return None
        seat.measured(offer.seconds, offer.batches)
        await missed.committed.wait()
        if not await self._brought_up(seat, missed):
            return None
        if opened.over:
            return replace(offer, batches=0)
        left = opened.began + opened.expected_s(self._config.outer.interval) - self._clock()
        count = planning.catching_up(seat.seconds_per_batch, left, self._config.outer.interval)
        plan = self._more(opened, seat, count)
        return await self._roster.ask(seat, seat.member.train, plan)

    def _more(self, opened: OpenRound, seat: Seat, count: int) -> RoundPlan:
        """A plan for one that comes in the middle of a round."""
        accounts = self._accounts
        accounts.ledger, given = accounts.ledger.assign({seat.name: count})
        outline = replace(opened.outline, steps=count / self._config.fleet.workers)
        return outline.plan(given[seat.name], 0)

    async def _brought_up(self, seat: Seat, missed: OpenRound) -> bool:
        """Whether the member stands where the missed round has led, or later."""
        if seat.round >= missed.number:
            return True
        if seat.round == missed.number - 1 and await self._adopt(seat, missed):
            return True
        return await self._rebase(seat)

    async def _rebase(self, seat: Seat) -> bool:
        """What it missed is gone: it takes the state from a donor, and keeps its work."""
        for _ in range(_REBASES):
            if seat.phase != "healthy":
                return False
            if await self._admission.rebase(self._roster, seat):
                return True
            await asyncio.sleep(_RETRY_S)
        self._demote(seat, "no healthy member could lend it the state")
        return False

    async def _adopt(self, seat: Seat, missed: OpenRound) -> bool:
        """The missed update, without the member's work: that is offered with the next one."""
        agreement = missed.agreement
        if agreement is None:
            return False
        vote = await self._roster.ask(
            seat,
            seat.member.reduce,
            replace(agreement.reduction, evaluator=""),
            agreement.forwarded,
        )
        if vote is None or not vote.digest:
            return False
        if vote.digest != agreement.digest:
            self._demote(seat, "its state is not the committed one")
            return False
        order = CommitOrder(missed.number, merged=False)
        taken = await self._roster.ask(seat, seat.member.commit, order)
        if taken is None or not self._committer.sound(seat, taken, agreement.digest):
            return False
        seat.round = missed.number
        return True

    def _demote(self, seat: Seat, detail: str) -> None:
        """Its work is given to others, and it is healed at the next boundary."""
        self._accounts.happened(seat.name, "late", f"healed instead: {detail}")
        self.release(seat)
        seat.phase, seat.ready = "ready", None
        self._roster.notify()

    def resume(self, plans: dict[Seat, RoundPlan]) -> OpenRound:
        """The round that a checkpoint was taken in."""
        plan = next(iter(plans.values()))
        batches = len(plan.numbers)
        outline = Outline(
            plan.round, plan.fragment, plan.parts, plan.first_step, plan.stride * max(batches, 1)
        )
        needed = min(self._config.fleet.needed, len(plans))
        opened = OpenRound(outline, needed, self._clock())
        for seat, plan in plans.items():
            self._assign(opened, seat, plan)
        return opened

    async def reinforce(self, opened: OpenRound) -> None:
        """Too few are left: let in who is ready, and give out what came back."""
        self._accounts.phase = "waiting for a quorum"
        await self._admission.admit(self._roster)
        for seat in self._roster.healthy:
            busy = seat in opened.tasks or seat in opened.offers
            if busy or seat.round != self._accounts.round or not self._accounts.ledger.left:
                continue
            plan = self._more(opened, seat, self._config.outer.interval)
            self._assign(opened, seat, plan)
        if not opened.tasks and not self._accounts.ledger.left:
            # All that is left to train has been offered.
            opened.needed = min(opened.needed, max(1, len(opened.offers)))

    async def welcome(self) -> None:
        """At a boundary: heal those who wait, and let them join a round that has begun."""
        if self.now is None or not self._roster.waiting_for_state:
            return
        before = set(self._roster.healthy)
        await self._admission.admit(self._roster)
        opened = self.now
        left = opened.began + opened.expected_s(self._config.outer.interval) - self._clock()
        for seat in self._roster.healthy:
            # Nobody has measured a new one: the others are about as fast.
            usual = opened.usual_speed()
            count = planning.catching_up(usual, left, self._config.outer.interval)
            if seat not in before and count:
                self._assign(opened, seat, self._more(opened, seat, count))

    def advance(self) -> None:
        """What is trained for already is the round now."""
        self.before, self.now, self.next = self.now, self.next, None
        if self.before is not None:
            self._adoptable.append(self.before)
        if len(self._adoptable) > _ADOPTABLE:
            self._adoptable.popleft().release_payloads()

    def idle(self, opened: OpenRound) -> list[Seat]:
        """Members with the committed state and nothing to offer; they take part all the same."""
        return [
            seat
            for seat in self._roster.healthy
            if seat.round == self._accounts.round
            and seat not in opened.offers
            and seat not in opened.tasks
        ]

    async def cancel(self) -> None:
        """Expect nothing from anyone any more."""
        opened = [one for one in (self.now, self.next, self.before) if one is not None]
        tasks = [task for one in opened for task in one.tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close_offers(self, closed: OpenRound) -> None:
        """Whoever has not offered is late; with overlap the others go on with the next round."""
        for seat in closed.tasks:
            if seat.round == closed.number - 1:
                self._accounts.happened(seat.name, "late", f"round {closed.number}")
        new = [seat.name for seat in closed.offers if seat.name not in closed.undecided]
        held = self._accounts.ledger.held
        closed.undecided |= {name: held.get(name, ()) for name in new}
        self._accounts.ledger = self._accounts.ledger.commit(new)
        if self._config.outer.overlap and self.next is None and self._accounts.ledger.left:
            self.next = self.plan()

    def release(self, seat: Seat) -> None:
        """What it was working on is for others; what has been agreed on stays."""
        accounts = self._accounts
        for opened in (self.now, self.next, self.before):
            if opened is not None and (shards := opened.forget(seat)):
                accounts.ledger = planning.returned(accounts.ledger, shards)
        accounts.ledger = accounts.ledger.give_back(seat.name)
