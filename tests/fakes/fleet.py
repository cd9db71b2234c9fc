"""A fleet in one process: real members on threads, in-memory transport, faults on demand."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from foundry.engines.training.diloco.config import DilocoConfig
from foundry.engines.training.learner import Learner
from foundry.engines.training.packing import Batch
from foundry.errors import Conflict, EngineFailed, NotFound, Unavailable
from foundry.execution.fleets.domain import FleetEvent, RoundRecord
from foundry.execution.workers.diloco.member import Member
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
from foundry.execution.workers.diloco.parties import MemberHandle
from foundry.execution.workers.diloco.snapshots import Snapshots
from foundry.execution.workers.diloco.transport import Courier, TokenBucket
from foundry.execution.workers.messages import Publication, Published

T = TypeVar("T")
VOCABULARY, WIDTH, TOKENS = 11, 6, 8


class TinyModel(nn.Module):
    """An embedding, two layers and a projection: enough for gradients that differ by batch."""

    logit_softcap: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(
        self, tokens_T: torch.Tensor, positions_T: torch.Tensor, segments: Sequence[int]
    ) -> torch.Tensor:
        hidden: torch.Tensor = self.embed(tokens_T)
        for layer in self.model.layers:  # type: ignore[union-attr]
            hidden = hidden + torch.tanh(layer(hidden))
        return hidden


class TinyWorkload:
    """Batch `number` is made of its number; `pace_s` makes it slow, until a file appears."""

    def __init__(self, steps: int, pace_s: float = 0.0, until: Path | None = None) -> None:
        generator = torch.Generator().manual_seed(3)
        self._model = TinyModel()
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        self._steps = steps
        self._pace_s = pace_s
        self._until = until
        self.learner = Learner(
            self._model,
            dict(self._model.named_parameters()),
            lr=1e-2,
            weight_decay=0.1,
            grad_clip=1.0,
        )

    @property
    def total_batches(self) -> int:
        return self._steps

    def batches(self, number: int) -> list[Batch]:
        if self._until is None or not self._until.exists():
            time.sleep(self._pace_s)
        return [tiny_batch(number)]

    def evaluation(self) -> Iterable[Batch]:
        return [tiny_batch(-1)]

    def export(self, target: Path) -> None:
        target.mkdir(parents=True)
        torch.save(self._model.state_dict(), target / "model.pt")


def tiny_batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(1000 + number)
    tokens = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    return Batch(
        tokens_T=tokens,
        positions_T=torch.arange(TOKENS),
        segments=(TOKENS,),
        sources_N=torch.arange(TOKENS - 1),
        targets_N=tokens[1:],
    )


@dataclass(frozen=True)
class TinySource:
    steps: int
    pace_s: float = 0.0
    until: Path | None = None

    def open(self) -> TinyWorkload:
        return TinyWorkload(self.steps, self.pace_s, self.until)


class MemoryWire:
    """Chunks in a dictionary; each belongs to a member and dies with it."""

    def __init__(self, host: "FakeSpawner", owner: str) -> None:
        self._host = host
        self._owner = owner

    def put(self, chunk: bytes) -> Any:
        address = (self._owner, next(self._host.numbers))
        self._host.chunks[address] = chunk
        return address

    async def get(self, address: Any) -> bytes:
        owner, _ = address
        if self._owner in self._host.cut_off or owner in self._host.cut_off:
            await asyncio.Event().wait()
        if owner in self._host.dead:
            raise Unavailable(f"{owner} is gone")
        chunk = self._host.chunks[address]
        return bytes([chunk[0] ^ 1]) + chunk[1:] if owner in self._host.damaging else chunk


@dataclass
class FakeSpawner:
    """Starts members in this process.

    Attributes:
        on_point: called with each member's name and the crash point that it reaches.
        pace_s: seconds that a batch takes longer, by member.
        room: members that may live at once.
        cut_off: members that nobody can reach, nor they anyone.
        damaging: members whose payloads arrive with a wrong bit.
    """

    config: DilocoConfig
    steps: int
    snapshots: Snapshots | None = None
    on_point: Callable[[str, str], Awaitable[None]] | None = None
    pace_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    room: int = 1000
    cut_off: set[str] = field(default_factory=set)
    damaging: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    chunks: dict[Any, bytes] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    calls: dict[str, set["asyncio.Future[Any]"]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        self.numbers = count()

    async def spawn(self, name: str) -> MemberHandle:
        while self._alive() >= self.room:  # noqa: ASYNC110 - as a cluster is polled
            await asyncio.sleep(0.01)
        self.dead.discard(name)
        link = self.config.fleet.link_mbit_s
        bucket = TokenBucket(link * 125_000 if link else None)

        async def reached(point: str) -> None:
            if self.on_point is not None:
                await self.on_point(name, point)

        self.members[name] = Member(
            name,
            TinySource(self.steps, self.pace_s[name]),
            self.config,
            Courier(MemoryWire(self, name), bucket, pull_s=0.5),
            snapshots=self.snapshots,
            reached=reached,
        )
        return FakeHandle(name, self)

    def _alive(self) -> int:
        return len(self.members.keys() - self.dead)

    def kill(self, name: str) -> None:
        """As the kernel does."""
        self.dead.add(name)


class FakeHandle:
    """Calls a member as an actor handle does: dead ones fail, unreachable ones never answer."""

    def __init__(self, name: str, host: FakeSpawner) -> None:
        self.name = name
        self.node = f"node-{name}"
        self.pid = 0
        self._host = host
        self._member = host.members[name]

    async def _call(self, call: Awaitable[T]) -> T:
        # As in Ray, what was asked for goes on when nobody waits for it any more.
        task = asyncio.ensure_future(call)
        self._host.calls[self.name].add(task)
        while not task.done() or self.name in self._host.cut_off:
            self._check()
            await asyncio.wait({task}, timeout=0.005)
            await asyncio.sleep(0)
        self._check()
        return task.result()

    def _check(self) -> None:
        if self.name in self._host.dead:
            raise EngineFailed(f"{self.name} died")

    async def prepare(self) -> Ready:
        return await self._call(self._member.prepare())

    async def standing(self) -> Ready:
        return await self._call(self._member.standing())

    async def status(self) -> Status:
        async def status() -> Status:
            return self._member.status()

        return await self._call(status())

    async def train(self, plan: RoundPlan) -> Offer:
        return await self._call(self._member.train(plan))

    async def halt(self) -> None:
        await self._call(self._member.halt())

    async def share(self, reduction: Reduction) -> tuple[Parcel, ...] | Vote:
        return await self._call(self._member.share(reduction))

    async def reduce(self, reduction: Reduction, forwarded: tuple[Parcel, ...] | None) -> Vote:
        return await self._call(self._member.reduce(reduction, forwarded))

    async def abandon(self) -> None:
        await self._call(self._member.abandon())

    async def commit(self, order: CommitOrder) -> Committed:
        return await self._call(self._member.commit(order))

    async def lend(self) -> Loan:
        return await self._call(self._member.lend())

    async def heal(self, loan: Loan, *, keep_work: bool = False) -> Ready:
        return await self._call(self._member.heal(loan, keep_work=keep_work))

    async def snapshot(self, with_global: bool) -> Snapshot:
        return await self._call(self._member.snapshot(with_global))

    async def restore(self, snapshot: Snapshot) -> Resumed:
        return await self._call(self._member.restore(snapshot))

    async def publish(self, publication: Publication, history: Mapping[str, Any]) -> Published:
        async def publish() -> Published:
            digest = self._member.replica.state.digest()
            return Published(publication.job_id, publication.spec.model, digest)

        return await self._call(publish())

    def kill(self) -> None:
        self._host.kill(self.name)
        for task in self._host.calls.pop(self.name, ()):
            task.add_done_callback(_seen)
            task.cancel()
        self._member.close()


def _seen(task: "asyncio.Future[Any]") -> None:
    """Nobody asks how the calls of a dead member ended."""
    if not task.cancelled():
        task.exception()


@dataclass
class MemoryLog:
    """A `RoundLog` that keeps the promises of the real one."""

    records: list[RoundRecord] = field(default_factory=list)
    events: list[FleetEvent] = field(default_factory=list)
    on_commit: Callable[[RoundRecord], Awaitable[None]] | None = None

    async def commit(self, record: RoundRecord, events: Sequence[FleetEvent] = ()) -> None:
        if record.round != len(self.records) + 1:
            raise Conflict(f"round {record.round} after round {len(self.records)}")
        self.records.append(record)
        self.events += events
        if self.on_commit is not None:
            await self.on_commit(record)

    async def keep(self, round: int, checkpoint: dict[str, Any] | None) -> None:
        if not 0 < round <= len(self.records):
            raise NotFound(f"there is no round {round}")
        self.records[round - 1] = replace(self.records[round - 1], checkpoint=checkpoint)

    async def note(self, events: Sequence[FleetEvent]) -> None:
        self.events += events

    async def newest(self) -> RoundRecord | None:
        return self.records[-1] if self.records else None

    async def checkpoints(self) -> list[RoundRecord]:
        return [record for record in self.records if record.checkpoint]

    async def rewind(self, round: int) -> None:
        del self.records[round:]
        self.events.append(FleetEvent(round, "", "resumed"))
