"""What a coordinator remembers of its run: batches, rounds, events, bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from foundry.engines.training.diloco.config import DilocoConfig
from foundry.engines.training.diloco.ledger import Ledger
from foundry.engines.training.schedule import learning_rate
from foundry.execution.fleets.domain import EventKind, FleetEvent, RoundRecord
from foundry.execution.workers.diloco.messages import FleetProgress
from foundry.execution.workers.diloco.planning import Outline
from foundry.execution.workers.diloco.roster import Roster, Seat

OnRound = Callable[[RoundRecord, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class FleetResult:
    """What a run came to.

    Attributes:
        round: newest committed one; of all attempts.
        digest: of the outer parameters and momentum.
        batches, total_batches: committed, of the run.
        stopped: it was asked to stop; it can be resumed.
        records: rounds that this coordinator has committed, with their members.
        digests: after each of these rounds, what each member reported.
        data_bytes, heal_bytes: received by all members.
    """

    round: int
    digest: str
    batches: int
    total_batches: int
    loss: float | None
    eval_loss: float | None
    tokens: int
    stopped: bool
    aborts: int
    data_bytes: int
    heal_bytes: int
    records: tuple[RoundRecord, ...]
    events: tuple[FleetEvent, ...]
    digests: tuple[Mapping[str, str], ...]


@dataclass(slots=True)
class Accounts:
    """What the coordinator counts and tells of a run.

    Attributes:
        ledger: with the offers of a closed round counted as trained.
        round, digest: of the newest committed state.
        pending: events that are not in the log yet.
    """

    config: DilocoConfig
    ledger: Ledger = field(default_factory=lambda: Ledger(0))
    round: int = 0
    digest: str = ""
    phase: str = "starting"
    warning: str = ""
    loss: float | None = None
    eval_loss: float | None = None
    tokens: int = 0
    aborts: int = 0
    data_bytes: int = 0
    heal_bytes_of_lost: int = 0
    pending: list[FleetEvent] = field(default_factory=list)
    events: list[FleetEvent] = field(default_factory=list)
    records: list[RoundRecord] = field(default_factory=list)
    digests: list[Mapping[str, str]] = field(default_factory=list)

    def happened(self, member: str, kind: EventKind, detail: str = "") -> None:
        event = FleetEvent(self.round, member, kind, detail)
        self.pending.append(event)
        self.events.append(event)
        if kind == "aborted":
            self.aborts += 1

    def committed(self, record: RoundRecord, digests: Mapping[str, str]) -> None:
        self.records.append(record)
        self.digests.append(digests)

    def counted(self, record: RoundRecord) -> None:
        """The round is in the log."""
        self.round, self.digest = record.round, record.digest
        self.loss = record.loss
        self.eval_loss = record.eval_loss if record.eval_loss is not None else self.eval_loss
        self.tokens += sum(share.tokens for share in record.members)
        self.data_bytes += sum(share.bytes_received for share in record.members)

    @property
    def over(self) -> bool:
        return self.ledger.left == 0 and self.ledger.outstanding == 0

    def metrics(self, record: RoundRecord, outline: Outline, heal_bytes: int) -> dict[str, float]:
        """Numbers of one round, by the names that charts know."""
        trained = sum(share.train_seconds for share in record.members)
        seconds = max(record.seconds, 1e-9)
        values = {
            "loss": record.loss,
            "lr": self._rate(outline.first_step + outline.steps),
            "tokens_total": float(self.tokens),
            "tokens_per_second": sum(share.tokens for share in record.members) / seconds,
            "diloco/round": float(record.round),
            "diloco/members": float(sum(share.merged for share in record.members)),
            "diloco/aborts": float(self.aborts),
            "diloco/bytes_data": float(self.data_bytes),
            "diloco/bytes_heal": float(heal_bytes),
            "diloco/utilisation": min(1.0, trained / (seconds * max(len(record.members), 1))),
        }
        if record.eval_loss is not None:
            values["eval_loss"] = record.eval_loss
        return values

    def progress(self, roster: Roster | None) -> FleetProgress:
        seats = sorted(roster.seats, key=lambda seat: seat.name) if roster else []
        return FleetProgress(
            phase=self.warning or self.phase,
            step=self.ledger.committed,
            total_steps=self.ledger.total,
            loss=self.loss,
            round=self.round,
            workers=sum(seat.phase == "healthy" for seat in seats),
            quorum=self.config.fleet.needed,
            commits=len(self.records),
            aborts=self.aborts,
            data_bytes=self.data_bytes,
            heal_bytes=self.healed(roster),
            fleet=tuple(_shown(seat) for seat in seats),
        )

    def healed(self, roster: Roster | None) -> int:
        return self.heal_bytes_of_lost + (roster.heal_bytes if roster else 0)

    def result(self, roster: Roster | None, *, stopped: bool) -> FleetResult:
        return FleetResult(
            round=self.round,
            digest=self.digest,
            batches=self.ledger.committed,
            total_batches=self.ledger.total,
            loss=self.loss,
            eval_loss=self.eval_loss,
            tokens=self.tokens,
            stopped=stopped,
            aborts=self.aborts,
            data_bytes=self.data_bytes,
            heal_bytes=self.healed(roster),
            records=tuple(self.records),
            events=tuple(self.events),
            digests=tuple(self.digests),
        )

    def _rate(self, step: float) -> float:
        inner, workers = self.config.inner, self.config.fleet.workers
        return learning_rate(
            step,
            peak=inner.lr,
            total_steps=-(-self.ledger.total // workers),
            warmup_ratio=inner.warmup_ratio,
            kind=inner.schedule,
        )


def _shown(seat: Seat) -> Mapping[str, object]:
    status = seat.status
    state = status.state if seat.phase == "healthy" else "joining"
    if seat.phase != "healthy" and status.state == "healing":
        state = "healing"
    return {
        "member": seat.name,
        "node": seat.node,
        "pid": seat.handle.pid if seat.handle else None,
        "state": state,
        "round": status.round,
        "batches": status.batches,
        "loss": status.loss,
        "tokens_per_second": round(status.tokens_per_second, 1),
        "sent": status.sent,
        "received": status.received,
    }
