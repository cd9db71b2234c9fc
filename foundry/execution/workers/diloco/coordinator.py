"""The coordinator of a fleet: plans rounds, closes them, has them agreed on, recorded, taken.

Pure asyncio over Protocols: who the members are and where they run, it does not know. A round
counts from the moment its row is in the log. What is lost before that is trained again by others;
what is lost after it is healed from those who have it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from foundry.engines.training.diloco.config import DilocoConfig
from foundry.errors import DatabaseUnavailable, EngineFailed, FoundryError
from foundry.execution.fleets.domain import EventKind
from foundry.execution.workers.diloco.accounts import Accounts, FleetResult, OnRound
from foundry.execution.workers.diloco.checkpoints import Checkpoints
from foundry.execution.workers.diloco.committing import Committer
from foundry.execution.workers.diloco.exchange import Agreement, Exchange
from foundry.execution.workers.diloco.healing import Admission, NobodyLeft
from foundry.execution.workers.diloco.messages import FleetProgress
from foundry.execution.workers.diloco.parties import MemberHandle, RoundLog, Spawner
from foundry.execution.workers.diloco.roster import Roster, Seat
from foundry.execution.workers.diloco.rounds import OpenRound
from foundry.execution.workers.diloco.schedule import Schedule
from foundry.execution.workers.diloco.snapshots import Snapshots

Finish = Callable[[MemberHandle, FleetResult], Awaitable[object]]

_POLL_S = 1.0
# So often the fleet starts again from a checkpoint, without a round in between, before it gives up.
_RESTARTS = 3


class Coordinator:
    """One attempt at a run.

    Args:
        snapshots: where checkpoints go; None: nothing is kept, and a fleet that is lost starts
            from the beginning.
        on_progress: sees the fleet every second.
        on_round: sees each committed round, with numbers for charts.
        should_stop: asked between batches; then the fleet is checkpointed.
    """

    def __init__(
        self,
        config: DilocoConfig,
        spawner: Spawner,
        log: RoundLog,
        *,
        snapshots: Snapshots | None = None,
        on_progress: Callable[[FleetProgress], None] = lambda progress: None,
        on_round: OnRound = lambda record, metrics: None,
        should_stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spawner = spawner
        self._log = log
        self._checkpoints = Checkpoints(snapshots, log) if snapshots else None
        self._on_progress = on_progress
        self._on_round = on_round
        self._should_stop = should_stop
        self._clock = clock
        self._accounts = Accounts(config)
        self._admission = Admission(config.fleet, self._accounts, clock)
        self._renew()

    async def run(self, finish: Finish | None = None) -> FleetResult:
        """Train until all batches are committed, or until it shall stop.

        Args:
            finish: called with a member that has the final state, and with the next one, if that
                member is lost meanwhile.

        Raises:
            LeaseLost: another coordinator has taken over.
            EngineFailed: members keep dying.
            InvalidRequest: the workload cannot be opened.
        """
        ticker = asyncio.ensure_future(self._tick())
        try:
            await self._begin()
            stopped = not await self._train()
            if not stopped and finish is not None:
                await self._finish(finish)
            return self._accounts.result(self._roster, stopped=stopped)
        finally:
            ticker.cancel()
            await self._close()

    async def _train(self) -> bool:
        """False: it was stopped."""
        restarts = 0
        while True:
            round = self._accounts.round
            try:
                return await self._rounds()
            except NobodyLeft as gone:
                restarts = restarts + 1 if self._accounts.round <= round else 1
                if restarts > _RESTARTS:
                    raise EngineFailed(
                        f"every worker was lost {restarts} times in round {round + 1}: see the "
                        "job's events, then resume it"
                    ) from gone
                await self._close()
                await self._begin()

    async def _rounds(self) -> bool:
        while self._schedule.now is not None or not self._accounts.over:
            if self._schedule.now is None:
                if not await self._muster():
                    await self._stop()
                    return False
                self._schedule.now = self._schedule.plan()
            if not await self._collect(self._schedule.now):
                await self._stop()
                return False
            if self._schedule.now.offers:
                await self._settle(self._schedule.now)
            else:
                # Everyone who was on it is lost.
                self._schedule.now = self._schedule.next = None
        return True

    async def _begin(self) -> None:
        """Start members, from the newest checkpoint if there is one."""
        accounts = self._accounts
        accounts.phase = "starting the workers"
        kept = await self._checkpoints.open() if self._checkpoints else None
        record, state = kept or (None, None)
        if await self._log.newest() is not None:
            await self._log.rewind(record.round if record else 0)
        self._renew()
        self._roster.open(state.snapshots if state else {}, state.next_number if state else 0)
        await self._admission.assemble(self._roster)
        if record is None or state is None:
            self._admission.found(self._roster)
            return
        accounts.round, accounts.digest, accounts.ledger = record.round, record.digest, state.ledger
        plans = await self._admission.restore(self._roster)
        if plans:
            self._schedule.now = self._schedule.resume(plans)

    def _renew(self) -> None:
        """A fleet without members."""
        accounts, clock = self._accounts, self._clock
        self._roster = Roster(self._config.fleet, self._spawner, self._lost, clock)
        self._committer = Committer(
            self._config, accounts, self._roster, self._log, self._checkpoints
        )
        self._schedule = Schedule(
            self._config, accounts, self._roster, self._committer, self._admission, clock
        )

    async def _muster(self) -> bool:
        """Wait for a quorum of members with the committed state. False: it shall stop."""
        while not self._should_stop():
            self._roster.raise_fatal()
            await self._admission.admit(self._roster)
            if len(self._roster.healthy) >= self._config.fleet.needed:
                return True
            self._accounts.phase = "waiting for a quorum"
            await self._note()
            await self._roster.change(set(), _POLL_S)
        return False

    async def _collect(self, opened: OpenRound) -> bool:
        """Wait for offers until the round can be closed. False: it shall stop."""
        grace_ends = float("inf")
        while not self._should_stop():
            self._roster.raise_fatal()
            self._accounts.phase = "training"
            opened.take_offers()
            enough = len(opened.offers) >= opened.needed
            if enough and grace_ends == float("inf"):
                grace_ends = self._clock() + self._config.fleet.grace_s
            if enough and (not opened.tasks or self._clock() >= grace_ends):
                return True
            if len(opened.offers) + len(opened.tasks) < opened.needed:
                await self._schedule.reinforce(opened)
                if not opened.tasks and len(opened.offers) >= opened.needed:
                    return True
                if not opened.tasks and not opened.offers:
                    return True
            await self._note()
            left = max(0.0, grace_ends - self._clock())
            await self._roster.change(set(opened.tasks.values()), min(_POLL_S, left))
        return False

    async def _settle(self, closed: OpenRound) -> None:
        """Have a closed round agreed on and committed, or leave it open for more offers."""
        self._schedule.close_offers(closed)
        self._accounts.phase = "exchanging"

        def aborted(reason: str) -> None:
            closed.aborts += 1
            self._accounts.happened("", "aborted", reason)

        exchange = Exchange(
            self._roster,
            closed.offers,
            self._schedule.idle(closed),
            round=closed.number,
            fragment=closed.outline.fragment,
            parts=closed.outline.parts,
            before=self._accounts.digest,
            evaluates=self._evaluates(closed),
            aborted=aborted,
        )
        agreement = await exchange.agree(closed.needed)
        if agreement is not None:
            await self._commit(closed, agreement)
            self._schedule.advance()
            await self._schedule.welcome()

    def _evaluates(self, closed: OpenRound) -> bool:
        every, first = self._config.inner.eval_every, closed.outline.first_step
        if self._accounts.over:
            return True
        last = first + closed.outline.steps
        return every is not None and int(last // every) > int(first // every)

    async def _stop(self) -> None:
        """Keep everything as it is, within a round."""
        accounts = self._accounts
        accounts.phase = "stopping"
        await self._schedule.cancel()
        seats = [seat for seat in self._roster.healthy if seat.round == accounts.round]
        await asyncio.gather(*(self._roster.ask(seat, seat.member.halt) for seat in seats))
        if accounts.round and self._checkpoints is not None:
            accounts.phase = "writing a checkpoint"
            await self._committer.keep_now(seats)
        await self._note()

    async def _commit(self, closed: OpenRound, agreement: Agreement) -> None:
        closed.undecided.clear()
        closed.agreement = agreement
        following = self._schedule.next.tasks if self._schedule.next else {}
        record = await self._committer.commit(
            closed, agreement, self._clock() - closed.began, following
        )
        heal_bytes = self._accounts.healed(self._roster)
        self._on_round(record, self._accounts.metrics(record, closed.outline, heal_bytes))

    def _lost(self, seat: Seat, kind: EventKind, detail: str) -> None:
        self._accounts.happened(seat.name, kind, detail)
        self._accounts.heal_bytes_of_lost += seat.status.healed
        self._schedule.release(seat)

    async def _note(self) -> None:
        """Write events down early; the next round would bring them, too."""
        events = tuple(self._accounts.pending)
        if not events:
            return
        try:
            await self._log.note(events)
        except DatabaseUnavailable:
            return
        del self._accounts.pending[: len(events)]

    async def _tick(self) -> None:
        while True:
            self._on_progress(self._accounts.progress(self._roster))
            await asyncio.sleep(_POLL_S)

    async def _finish(self, finish: Finish) -> None:
        """Have a member publish the final state.

        Raises EngineFailed: nobody is left to do it; resuming does only this.
        """
        self._accounts.phase = "publishing"
        result = self._accounts.result(self._roster, stopped=False)
        for seat in self._roster.healthy:
            if seat.round < self._accounts.round:
                continue
            outcome = await self._roster.ask(seat, _finished, finish, seat, result)
            if isinstance(outcome, FoundryError):
                raise outcome
            if outcome:
                return
        raise EngineFailed("no worker is left to publish the result: resume the job")

    async def _close(self) -> None:
        await self._schedule.cancel()
        await self._roster.close()


async def _finished(finish: Finish, seat: Seat, result: FleetResult) -> FoundryError | bool:
    """What every member would fail with is no fault of this one."""
    try:
        await finish(seat.member, result)
    except EngineFailed:
        raise
    except FoundryError as error:
        return error
    return True
