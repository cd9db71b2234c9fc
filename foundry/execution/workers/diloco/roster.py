"""Who is in the fleet: starts members, asks them whether they live, replaces those that do not.

The ping decides, because Ray may take a quarter of a minute to notice that a node is gone.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, TypeVar

from foundry.engines.training.diloco.config import FleetConfig
from foundry.errors import EngineFailed, FoundryError, InvalidRequest
from foundry.execution.fleets.domain import EventKind
from foundry.execution.workers.diloco.messages import Ready, Snapshot, Status
from foundry.execution.workers.diloco.parties import MemberHandle, Spawner

P = ParamSpec("P")
T = TypeVar("T")
Phase = Literal["joining", "ready", "healthy", "lost"]

PING_S = 1.0
# Loading a model, compiling kernels.
_PREPARE_S = 900.0
_LOSSES_PER_WORKER = 4
_ACTIVE = frozenset({"training", "offering", "reducing", "healing"})


@dataclass(eq=False, slots=True)
class Seat:
    """One member as the coordinator knows it.

    Attributes:
        phase: ready ones have their workload, but not the fleet's state.
        round: the committed round that it stands at.
        snapshot: to go back to before it takes part.
        seconds_per_batch: measured; None: not yet.
        sent, received: payload bytes as of its last vote.
    """

    name: str
    phase: Phase = "joining"
    handle: MemberHandle | None = None
    ready: Ready | None = None
    round: int = 0
    status: Status = field(default_factory=Status)
    moved_at: float = 0.0
    snapshot: Snapshot | None = None
    seconds_per_batch: float | None = None
    sent: int = 0
    received: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def node(self) -> str:
        return self.handle.node if self.handle is not None else ""

    @property
    def member(self) -> MemberHandle:
        if self.handle is None:
            raise EngineFailed(f"{self.name} has not started yet")
        return self.handle

    def measured(self, seconds: float, batches: int) -> None:
        if batches:
            now = seconds / batches
            before = self.seconds_per_batch
            self.seconds_per_batch = now if before is None else (before + now) / 2


Lost = Callable[[Seat, EventKind, str], None]


class Roster:
    """Keeps `config.workers` seats taken.

    Args:
        on_lost: told at once, before anyone can ask the lost one again.
    """

    def __init__(
        self,
        config: FleetConfig,
        spawner: Spawner,
        on_lost: Lost,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spawner = spawner
        self._on_lost = on_lost
        self._clock = clock
        self._changed = asyncio.Event()
        self._next = 0
        self._losses = 0
        self._closed = False
        self.seats: list[Seat] = []
        self.fatal: FoundryError | None = None

    @property
    def healthy(self) -> list[Seat]:
        return self._of("healthy")

    @property
    def waiting_for_state(self) -> list[Seat]:
        return self._of("ready")

    @property
    def heal_bytes(self) -> int:
        return sum(seat.status.healed for seat in self.seats)

    def open(self, snapshots: dict[str, Snapshot], first: int) -> None:
        """Start the members of a checkpoint, and new ones up to the number wanted.

        Args:
            first: number of the first new member; names are never used twice in a run.
        """
        self._next = first
        for name, snapshot in sorted(snapshots.items())[: self._config.workers]:
            self._start(Seat(name, snapshot=snapshot))
        while len(self.seats) < self._config.workers:
            self._start(self._new())

    @property
    def next_number(self) -> int:
        return self._next

    def lose(self, seat: Seat, kind: EventKind, detail: str) -> None:
        """Take a member out and start another; a lost one is lost once."""
        if seat.phase == "lost":
            return
        seat.phase = "lost"
        seat.gone.set()
        self.seats.remove(seat)
        if seat.handle is not None:
            seat.handle.kill()
        for task in seat.tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._on_lost(seat, kind, detail)
        self._losses += 1
        if self._losses > _LOSSES_PER_WORKER * self._config.workers:
            self.fatal = EngineFailed(
                f"{self._losses} workers were lost without a round in between; the last one, "
                f"{seat.name}: {detail}"
            )
        elif not self._closed:
            self._start(self._new())
        self.notify()

    def committed(self) -> None:
        """A round went well."""
        self._losses = 0

    async def ask(
        self, seat: Seat, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T | None:
        """The member's answer; None: it is lost, for whatever reason."""
        if seat.phase == "lost":
            return None
        answer = asyncio.ensure_future(method(*args, **kwargs))
        gone = asyncio.ensure_future(seat.gone.wait())
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else None
        except FoundryError as error:
            self.lose(seat, "died", error.message)
            return None
        finally:
            answer.cancel()
            gone.cancel()

    async def change(self, others: set[asyncio.Task[Any]], timeout_s: float) -> None:
        """Wait until the roster has changed or one of the others is done, but not for ever."""
        self._changed.clear()
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait(
                {changed, *others}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            changed.cancel()

    def notify(self) -> None:
        self._changed.set()

    def raise_fatal(self) -> None:
        if self.fatal is not None:
            raise self.fatal

    async def close(self) -> None:
        """End them all."""
        self._closed = True
        tasks = [task for seat in self.seats for task in seat.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for seat in self.seats:
            seat.gone.set()
            if seat.handle is not None:
                seat.handle.kill()
        self.seats.clear()

    def _of(self, phase: Phase) -> list[Seat]:
        found = [seat for seat in self.seats if seat.phase == phase]
        return sorted(found, key=lambda seat: seat.name)

    def _new(self) -> Seat:
        self._next += 1
        return Seat(f"w{self._next - 1:04d}")

    def _start(self, seat: Seat) -> None:
        self.seats.append(seat)
        seat.tasks.append(asyncio.ensure_future(self._guarded(seat, self._join)))

    async def _guarded(self, seat: Seat, work: Callable[[Seat], Awaitable[None]]) -> None:
        """What goes wrong with a member is its loss, and the run's if all would fail so."""
        try:
            await work(seat)
        except InvalidRequest as error:
            self.fatal = error
            self.notify()
        except FoundryError as error:
            self.lose(seat, "died", error.message)

    async def _join(self, seat: Seat) -> None:
        seat.handle = await self._spawner.spawn(seat.name)
        seat.tasks.append(asyncio.ensure_future(self._guarded(seat, self._watch)))
        try:
            async with asyncio.timeout(_PREPARE_S):
                seat.ready = await seat.handle.prepare()
        except TimeoutError as error:
            raise EngineFailed(f"{seat.name} was not ready after {_PREPARE_S:.0f} s") from error
        seat.phase = "ready"
        self.notify()

    async def _watch(self, seat: Seat) -> None:
        seat.moved_at = self._clock()
        while seat.phase != "lost":
            try:
                async with asyncio.timeout(self._config.silence_s):
                    status = await seat.member.status()
            except TimeoutError:
                # While its libraries load, a process may keep all of Python to itself.
                if seat.phase == "joining":
                    continue
                self.lose(seat, "silent", f"no answer for {self._config.silence_s:g} s")
                return
            if self._stalls(seat, status):
                self.lose(seat, "stalled", f"no step for {self._config.stall_s:g} s")
                return
            await asyncio.sleep(min(PING_S, self._config.silence_s / 3))

    def _stalls(self, seat: Seat, status: Status) -> bool:
        now = self._clock()
        if status.moved != seat.status.moved or status.state not in _ACTIVE:
            seat.moved_at = now
        seat.status = status
        return now - seat.moved_at > self._config.stall_s
