"""What the fleet benchmarks share: workers of a fixed speed, and a log that knows the time."""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foundry.engines.training.diloco.config import (
    DilocoConfig,
    FleetConfig,
    InnerConfig,
    OuterConfig,
)
from foundry.engines.training.learner import Learner, StepOutcome
from foundry.engines.training.packing import Batch
from foundry.errors import Conflict
from foundry.execution.fleets.domain import FleetEvent, RoundRecord
from tests.bench.byte_gpt import ByteGpt, ByteGptSource


class PacedLearner(Learner):
    """Takes over a learner; each step takes `step_s`, or longer where the arithmetic does."""

    def __init__(self, learner: Learner, step_s: float) -> None:
        vars(self).update(vars(learner))
        self._step_s = step_s

    def step(self, batches: Sequence[Batch], lr: float, *exchange: Any) -> StepOutcome:
        began = time.monotonic()
        outcome = super().step(batches, lr, *exchange)
        time.sleep(max(0.0, began + self._step_s - time.monotonic()))
        return outcome


@dataclass(frozen=True, slots=True)
class PacedSource:
    """The byte-level GPT on a machine of a given speed, however many share the real one.

    Attributes:
        step_s: of one inner step; more than the arithmetic takes while all workers train.
    """

    source: ByteGptSource
    step_s: float

    def open(self) -> ByteGpt:
        workload = ByteGpt(self.source)
        workload.learner = PacedLearner(workload.learner, self.step_s)
        return workload


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry of the log.

    Attributes:
        at: when it was written, on the monotonic clock, s.
    """

    at: float
    what: RoundRecord | FleetEvent


@dataclass(slots=True)
class TimedLog:
    """A log of rounds in memory, in order, with times.

    Attributes:
        begun: set at the first commit.
    """

    entries: list[Seen] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    _kept: dict[int, dict[str, Any] | None] = field(default_factory=dict)

    async def commit(self, record: RoundRecord, events: Sequence[FleetEvent] = ()) -> None:
        newest = await self.newest()
        if record.round != (newest.round if newest else 0) + 1:
            raise Conflict(f"round {record.round} cannot be committed now")
        self._write(record)
        self.begun.set()
        await self.note(events)

    async def keep(self, round: int, checkpoint: dict[str, Any] | None) -> None:
        self._kept[round] = checkpoint

    async def note(self, events: Sequence[FleetEvent]) -> None:
        for event in events:
            self._write(event)

    async def newest(self) -> RoundRecord | None:
        return next((record for _, record in reversed(self.rounds)), None)

    async def checkpoints(self) -> list[RoundRecord]:
        kept = [replace(r, checkpoint=self._kept.get(r.round)) for _, r in self.rounds]
        return [record for record in kept if record.checkpoint]

    async def rewind(self, round: int) -> None:
        self.entries = [
            seen
            for seen in self.entries
            if isinstance(seen.what, FleetEvent) or seen.what.round <= round
        ]
        self._write(FleetEvent(round, "", "resumed"))

    async def history(self) -> tuple[FleetEvent, ...]:
        return tuple(event for _, event in self.events)

    @property
    def rounds(self) -> list[tuple[float, RoundRecord]]:
        return [(e.at, e.what) for e in self.entries if isinstance(e.what, RoundRecord)]

    @property
    def events(self) -> list[tuple[float, FleetEvent]]:
        return [(e.at, e.what) for e in self.entries if isinstance(e.what, FleetEvent)]

    def _write(self, what: RoundRecord | FleetEvent) -> None:
        self.entries.append(Seen(time.monotonic(), what))


def fleet_config(
    source: ByteGptSource, outer: OuterConfig, *, workers: int, silence_s: float
) -> DilocoConfig:
    """The settings of a run of `source.steps` batches for each of the workers."""
    return DilocoConfig(
        inner=InnerConfig(
            max_steps=source.steps,
            batch_size=source.batch_size,
            micro_batch_size=source.batch_size,
            max_seq_len=source.length,
            lr=source.lr,
        ),
        outer=outer,
        fleet=FleetConfig(workers=workers, quorum=min(2, workers), silence_s=silence_s),
    )


def told(record: RoundRecord, metrics: Mapping[str, float]) -> None:
    """Show each round while it is new."""
    line = (
        f"round {record.round}: {len(record.members)} members, {record.seconds:.1f} s, "
        f"loss {record.loss:.4f}, utilisation {metrics['diloco/utilisation']:.3f}"
    )
    print(line, file=sys.stderr, flush=True)
