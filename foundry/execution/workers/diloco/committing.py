"""What follows an agreement: the row, the members' commits, their digests, their checkpoint."""

import asyncio
from collections.abc import Container, Mapping, Sequence
from typing import Any

from foundry.engines.training.diloco.config import DilocoConfig
from foundry.engines.training.diloco.ledger import Ledger
from foundry.errors import DatabaseUnavailable
from foundry.execution.fleets.domain import RoundRecord
from foundry.execution.workers.diloco.accounts import Accounts
from foundry.execution.workers.diloco.checkpoints import Checkpoints, FleetState, ledger_document
from foundry.execution.workers.diloco.exchange import Agreement
from foundry.execution.workers.diloco.messages import CommitOrder, Committed, Snapshot
from foundry.execution.workers.diloco.parties import RoundLog
from foundry.execution.workers.diloco.roster import Roster, Seat
from foundry.execution.workers.diloco.rounds import OpenRound

_RETRY_S = 1.0


class Committer:
    """Makes an agreed round count. From the row on it cannot fail, only lose members."""

    def __init__(
        self,
        config: DilocoConfig,
        accounts: Accounts,
        roster: Roster,
        log: RoundLog,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._config = config
        self._accounts = accounts
        self._roster = roster
        self._log = log
        self._checkpoints = checkpoints

    async def commit(
        self,
        closed: OpenRound,
        agreement: Agreement,
        seconds: float,
        following: Container[Seat],
    ) -> RoundRecord:
        """Write the round's row, then have every member take the update.

        Args:
            seconds: that the round took.
            following: who trains for the next round already.
        """
        names = set(agreement.reduction.voters)
        voters = [seat for seat in self._roster.healthy if seat.name in names]
        record = self._record(closed, agreement, voters, seconds)
        ledger = self._accounts.ledger
        await self._write(record)
        self._accounts.counted(record)
        self._roster.committed()
        keeps = self._checkpoints is not None and (
            record.round % self._config.fleet.checkpoint_every == 0 or self._accounts.over
        )
        answers = await self._taken(closed, voters, record, following, keeps=keeps)
        closed.committed.set()
        digests = {seat.name: answer.digest for seat, answer in answers.items()}
        self._accounts.committed(record, digests)
        if keeps:
            found = {seat.name: a.snapshot for seat, a in answers.items() if a.snapshot}
            problems = [answer.problem for answer in answers.values() if answer.problem]
            self._accounts.warning = problems[0] if problems else ""
            await self._keep(record.round, ledger, found)
        return record

    async def keep_now(self, seats: Sequence[Seat]) -> None:
        """Checkpoint members that were halted in the middle of a round."""
        ledger = self._accounts.ledger
        answers = await asyncio.gather(
            *(
                self._roster.ask(seat, seat.member.snapshot, number == 0)
                for number, seat in enumerate(seats)
            )
        )
        pairs = zip(seats, answers, strict=True)
        found = {seat.name: snapshot for seat, snapshot in pairs if snapshot}
        await self._keep(self._accounts.round, ledger, found)

    def sound(self, seat: Seat, answer: Committed, digest: str) -> bool:
        """Whether the member has what was agreed on; otherwise it is taken out."""
        if answer.digest == digest:
            return True
        detail = f"its state is {answer.digest[:12]}… where {digest[:12]}… was committed"
        self._roster.lose(seat, "corrupt", detail)
        return False

    def _record(
        self, closed: OpenRound, agreement: Agreement, voters: list[Seat], seconds: float
    ) -> RoundRecord:
        offers = list(closed.offers.values())
        batches = sum(offer.batches for offer in offers)
        return RoundRecord(
            round=closed.number,
            fragment=closed.outline.fragment,
            digest=agreement.digest,
            ledger=ledger_document(self._accounts.ledger),
            members=closed.shares(agreement, voters),
            aborts=closed.aborts,
            seconds=seconds,
            loss=sum(offer.loss * offer.batches for offer in offers) / max(batches, 1),
            eval_loss=agreement.eval_loss,
        )

    async def _write(self, record: RoundRecord) -> None:
        """Write the round's row, however long PostgreSQL is away.

        Raises LeaseLost: another coordinator has taken over; nothing counts.
        """
        while True:
            events = tuple(self._accounts.pending)
            try:
                await self._log.commit(record, events)
            except DatabaseUnavailable:
                self._accounts.phase = "waiting for the database"
                await asyncio.sleep(_RETRY_S)
                continue
            del self._accounts.pending[: len(events)]
            return

    async def _taken(
        self,
        closed: OpenRound,
        voters: Sequence[Seat],
        record: RoundRecord,
        following: Container[Seat],
        *,
        keeps: bool,
    ) -> dict[Seat, Committed]:
        """Who has taken the update, and has the right state now."""
        calls: list[Any] = []
        for number, seat in enumerate(voters):
            order = CommitOrder(
                record.round,
                merged=seat in closed.offers,
                overlap=self._config.outer.overlap if seat in following else 0,
                snapshot=keeps,
                with_global=number == 0,
            )
            calls.append(self._roster.ask(seat, seat.member.commit, order))
        answers = await asyncio.gather(*calls)
        taken = {}
        for seat, answer in zip(voters, answers, strict=True):
            if answer is not None and self.sound(seat, answer, record.digest):
                seat.round = record.round
                taken[seat] = answer
        return taken

    async def _keep(self, round: int, ledger: Ledger, snapshots: Mapping[str, Snapshot]) -> None:
        """Let the round's row refer to its checkpoint."""
        state = FleetState.of(ledger, snapshots, self._roster.next_number)
        if state is None or self._checkpoints is None:
            return
        await self._checkpoints.add(round, state)
