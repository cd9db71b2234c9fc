"""How members get the committed state: at the start, from a checkpoint, or from a healthy donor."""

import asyncio
from collections import Counter
from collections.abc import Callable

from foundry.engines.training.diloco.config import FleetConfig
from foundry.engines.training.diloco.ledger import Ledger
from foundry.execution.fleets.domain import EventKind
from foundry.execution.workers.diloco.accounts import Accounts
from foundry.execution.workers.diloco.messages import Loan, Ready, RoundPlan
from foundry.execution.workers.diloco.roster import Roster, Seat

# With the quorum there, a fleet starts without those who take longer than this.
_START_GRACE_S = 60.0
_POLL_S = 1.0


class NobodyLeft(Exception):
    """No member has the committed state any more: the fleet goes back to its checkpoint."""


class Admission:
    """Nobody gets batches or a vote before its state's digest is the committed one."""

    def __init__(self, config: FleetConfig, accounts: Accounts, clock: Callable[[], float]) -> None:
        self._config = config
        self._accounts = accounts
        self._clock = clock

    async def assemble(self, roster: Roster) -> None:
        """Wait until all members have their workload, or most of them for a while.

        Raises:
            EngineFailed, InvalidRequest: they cannot get it.
        """
        grace_ends = float("inf")
        while True:
            roster.raise_fatal()
            ready = len(roster.waiting_for_state)
            if ready >= self._config.workers or self._clock() >= grace_ends:
                return
            if ready >= self._config.needed and grace_ends == float("inf"):
                grace_ends = self._clock() + _START_GRACE_S
            await roster.change(set(), _POLL_S)

    def found(self, roster: Roster) -> None:
        """Begin a run: what most have loaded is the state to begin with."""
        ready = [seat.ready for seat in roster.waiting_for_state if seat.ready]
        accounts = self._accounts
        accounts.round = 0
        accounts.digest = Counter(one.digest for one in ready).most_common(1)[0][0]
        accounts.ledger = Ledger(ready[0].total_batches)

    async def restore(self, roster: Roster) -> dict[Seat, RoundPlan]:
        """Take members back to a checkpoint. Returns the plans that they were on."""
        seats = [seat for seat in roster.waiting_for_state if seat.snapshot]
        plans: dict[Seat, RoundPlan] = {}
        for seat, plan in zip(
            seats, await asyncio.gather(*(self._restored(roster, s) for s in seats)), strict=True
        ):
            if plan is not None:
                plans[seat] = plan
        ledger, there = self._accounts.ledger, {seat.name for seat in roster.healthy}
        for member in set(ledger.held) - there:
            ledger = ledger.give_back(member)
        self._accounts.ledger = ledger
        for seat in roster.waiting_for_state:
            seat.snapshot = None
        return plans

    async def _restored(self, roster: Roster, seat: Seat) -> RoundPlan | None:
        if seat.snapshot is None:
            return None
        resumed = await roster.ask(seat, seat.member.restore, seat.snapshot)
        if resumed is None:
            return None
        if resumed.digest != self._accounts.digest:
            roster.lose(seat, "corrupt", "its checkpoint is not the committed state")
            return None
        self._joined(seat, "joined", "from its checkpoint")
        return resumed.plan

    async def admit(self, roster: Roster) -> None:
        """Heal everyone who is ready; who cannot be healed now waits for the next time.

        Raises:
            NobodyLeft: there is no donor, and there will be none.
        """
        waiting = []
        for seat in roster.waiting_for_state:
            if seat.ready is not None and self._matches(seat.ready):
                self._joined(seat, "joined", f"on {seat.node}")
            else:
                waiting.append(seat)
        if waiting and (loan := await self._borrowed(roster)) is not None:
            await asyncio.gather(*(self._healed(roster, seat, loan) for seat in waiting))
        if not roster.healthy and self._accounts.round:
            raise NobodyLeft

    async def rebase(self, roster: Roster, seat: Seat) -> bool:
        """Give a member that is rounds behind the committed state; its own work it keeps."""
        loan = await self._borrowed(roster)
        if loan is None:
            return False
        ready = await roster.ask(seat, seat.member.heal, loan, keep_work=True)
        if ready is None or (ready.round, ready.digest) != (loan.round, loan.digest):
            return False
        missed, seat.round = loan.round - seat.round, loan.round
        detail = f"{missed} rounds behind; with its own work"
        self._accounts.happened(seat.name, "healed", detail)
        return True

    async def _borrowed(self, roster: Roster) -> Loan | None:
        """The committed state, from the first member that has it."""
        for donor in roster.healthy:
            if donor.round != self._accounts.round:
                continue
            loan = await roster.ask(donor, donor.member.lend)
            if loan is None:
                continue
            if loan.digest == self._accounts.digest:
                return loan
            roster.lose(donor, "corrupt", "its state is not the committed one")
        return None

    async def _healed(self, roster: Roster, seat: Seat, loan: Loan) -> None:
        seat.ready = await roster.ask(seat, seat.member.heal, loan)
        if seat.ready is not None and self._matches(seat.ready):
            self._joined(seat, "healed", f"on {seat.node}, after round {loan.round}")

    def _matches(self, ready: Ready) -> bool:
        return (ready.round, ready.digest) == (self._accounts.round, self._accounts.digest)

    def _joined(self, seat: Seat, kind: EventKind, detail: str) -> None:
        seat.phase, seat.round = "healthy", self._accounts.round
        self._accounts.happened(seat.name, kind, detail)
