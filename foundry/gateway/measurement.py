"""What each endpoint does, counted as requests settle and written in the background.

Settling is arithmetic on a few numbers in memory. A replica writes what it counted of a window,
from the window's beginning, under its own key: writing twice changes nothing, and a killed replica
loses at most what it has not written.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from foundry.errors import FoundryError, InvalidRequest
from foundry.gateway.ports import End, Meter, Settlement
from foundry.infra.ids import uuid7
from foundry.serving.endpoints.domain import Target
from foundry.serving.outcomes.domain import Statistics, WindowPart, revision_of

log = logging.getLogger(__name__)

# Windows in memory: beyond it new endpoints go unmeasured until older windows are written.
MAX_OPEN = 2048
# Refused because of what it asked: says nothing about the engine.
_CALLERS_FAULTS = frozenset({"invalid_value", "unsupported", "context_length_exceeded"})

Key = tuple[UUID, UUID, int, int]


class WindowSink(Protocol):
    async def write(self, parts: Sequence[WindowPart]) -> None:
        """Replace what this replica wrote of these windows. Raises FoundryError."""


# A request that lasted longer than the last so many gaps counts those before them twice.
_MAX_SPANS = 16


class _Busy:
    """Length of the union of intervals that arrive in order of their ends."""

    def __init__(self) -> None:
        self._spans: list[tuple[float, float]] = []
        self._sealed = 0.0

    def add(self, start: float, end: float) -> float:
        """The union's length so far, in seconds."""
        while self._spans and self._spans[-1][1] >= start:
            first, last = self._spans.pop()
            start, end = min(start, first), max(end, last)
        self._spans.append((start, end))
        if len(self._spans) > _MAX_SPANS:
            first, last = self._spans.pop(0)
            self._sealed += last - first
        return self._sealed + sum(last - first for first, last in self._spans)


@dataclass(slots=True)
class _Open:
    """One window as it is being counted; `dirty` while it holds what was not written."""

    statistics: Statistics = field(default_factory=Statistics)
    busy: _Busy = field(default_factory=_Busy)
    dirty: bool = True


class Measurement:
    """A meter that also collects windows and passes every settlement on.

    Args:
        clock: Unix seconds.
    """

    def __init__(
        self,
        meter: Meter,
        sink: WindowSink,
        *,
        engine_version: str,
        window_s: float,
        flush_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._meter = meter
        self._sink = sink
        self._engine_version = engine_version
        self._window_s = window_s
        self._flush_s = flush_s
        self._clock = clock
        self._replica = uuid7()
        self._open: dict[Key, _Open] = {}
        self._index = 0

    def settle(self, settlement: Settlement) -> None:
        self._meter.settle(settlement)
        if settlement.target is None:
            return
        try:
            self._count(settlement, settlement.target)
        except InvalidRequest:
            log.warning("unmeasured: %s names no revision", settlement.target.app_name)

    def _count(self, settlement: Settlement, target: Target) -> None:
        now = self._clock()
        # A clock set back must not reopen a window that was written and forgotten.
        self._index = max(self._index, int(now // self._window_s))
        revision = revision_of(target.app_name)
        key = (settlement.principal.tenant_id, target.endpoint_id, revision, self._index)
        window = self._open.get(key)
        if window is None:
            if len(self._open) >= MAX_OPEN:
                return
            window = self._open[key] = _Open()
        window.dirty = True
        _add(window, settlement, now, self._index * self._window_s)

    async def flush(self) -> None:
        """Write what changed; forget windows that ended and were written. Raises FoundryError."""
        index = int(self._clock() // self._window_s)
        written = {key: window for key, window in self._open.items() if window.dirty}
        for window in written.values():
            window.dirty = False
        try:
            if written:
                await self._sink.write([self._part(*item) for item in written.items()])
        except BaseException:
            for window in written.values():
                window.dirty = True
            raise
        for key, window in list(self._open.items()):
            if key[3] < min(index, self._index) and not window.dirty:
                del self._open[key]

    @asynccontextmanager
    async def run_in_background(self) -> AsyncIterator[None]:
        """Flushes every `flush_s`, and once more at the end."""
        task = asyncio.create_task(self._forever(), name="measurement")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self._attempt()

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            await self._attempt()

    async def _attempt(self) -> None:
        try:
            await self.flush()
        except FoundryError as error:
            log.warning("measurements are kept and written later: %s", error.message)
        except Exception:
            # Measuring outlives every fault of a write; requests never notice.
            log.exception("measurements are kept and written later")

    def _part(self, key: Key, window: _Open) -> WindowPart:
        tenant_id, endpoint_id, revision, index = key
        return WindowPart(
            tenant_id=tenant_id,
            endpoint_id=endpoint_id,
            revision=revision,
            started_at=datetime.fromtimestamp(index * self._window_s, UTC),
            window_s=self._window_s,
            replica=self._replica,
            engine_version=self._engine_version,
            statistics=window.statistics,
        )


def _add(window: _Open, settlement: Settlement, now: float, started_at: float) -> None:
    statistics = window.statistics
    if settlement.end is End.FINISHED and settlement.usage is not None:
        usage = settlement.usage
        ttft_s = settlement.ttft_s if settlement.streamed else None
        statistics.answered(
            usage.prompt_tokens, usage.completion_tokens, ttft_s, settlement.duration_s
        )
    elif settlement.end is not End.CLIENT_LEFT and settlement.code not in _CALLERS_FAULTS:
        statistics.errors += 1
    statistics.in_flight_s += settlement.duration_s
    start = max(now - settlement.duration_s, started_at)
    statistics.busy_s = window.busy.add(start, max(now, start))
