"""Which adapters live in a replica's engine: REMOTE → DISK → RESIDENT, or FAILED.

Each adapter is loaded once however many requests ask for it, stays while one uses it, and leaves
the engine when the least recently used has to make room.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from foundry.errors import FoundryError, NoHealthyUpstream, Overloaded

PARALLEL_LOADS = 4
FAILURES_UNTIL_FAILED = 5
MAX_BACKOFF_S = 300.0

_log = logging.getLogger(__name__)


class State(StrEnum):
    REMOTE = "remote"
    DISK = "disk"
    RESIDENT = "resident"
    FAILED = "failed"


class LoraEngine(Protocol):
    async def add_lora(self, uid: str, path: Path) -> None: ...

    async def remove_lora(self, uid: str) -> None: ...


class AdapterSource(Protocol):
    async def fetch(self, uid: str, version_id: str) -> Path:
        """A verified local directory that this engine's base can load.

        Raises:
            InvalidArtifact: the files are damaged or do not fit the base.
        """


@dataclass(slots=True)
class _Adapter:
    uid: str
    state: State = State.REMOTE
    pins: int = 0
    failures: int = 0
    retry_at: float = 0.0
    error: FoundryError | None = None
    loading: asyncio.Task[None] | None = None


class ResidentAdapters:
    """Residency of one engine.

    Args:
        capacity: adapters that may be resident; the engine's own limit.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engine: LoraEngine,
        source: AdapterSource,
        *,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._source = source
        self._capacity = capacity
        self._clock = clock
        self._adapters: OrderedDict[str, _Adapter] = OrderedDict()
        self._loads = asyncio.Semaphore(PARALLEL_LOADS)
        # Guards the count of residents: two loads must not both take the last place.
        self._placing = asyncio.Lock()
        self._placed: set[str] = set()

    @asynccontextmanager
    async def lease_adapter(self, uid: str, version_id: str) -> AsyncIterator[None]:
        """The adapter is resident and stays so while the context is open.

        Raises:
            NoHealthyUpstream: it cannot be loaded; `retry_after_s` says when that is tried again.
            Overloaded: every place is taken by an adapter in use.
        """
        adapter = self._adapters.setdefault(uid, _Adapter(uid))
        adapter.pins += 1
        try:
            await self._ensure_resident(adapter, version_id)
            self._adapters.move_to_end(uid)
            yield
        finally:
            adapter.pins -= 1
            self._forget_idle()

    def states(self) -> dict[str, State]:
        """Least recently used first."""
        return {uid: adapter.state for uid, adapter in self._adapters.items()}

    async def _ensure_resident(self, adapter: _Adapter, version_id: str) -> None:
        if adapter.state is State.RESIDENT:
            return
        if adapter.loading is None:
            self._refuse_in_backoff(adapter)
            adapter.loading = asyncio.create_task(self._load_adapter(adapter, version_id))
        # One caller's disconnect must not take the load from the others.
        await asyncio.shield(adapter.loading)

    def _refuse_in_backoff(self, adapter: _Adapter) -> None:
        wait = adapter.retry_at - self._clock()
        if adapter.error is not None and wait > 0:
            raise _unavailable_error(adapter.error, wait)

    async def _load_adapter(self, adapter: _Adapter, version_id: str) -> None:
        try:
            async with self._loads:
                path = await self._source.fetch(adapter.uid, version_id)
                adapter.state = State.DISK
                await self._make_room(adapter.uid)
                await self._add_to_engine(adapter, path)
        except Overloaded:
            raise
        except FoundryError as error:
            raise self._record_failure(adapter, error) from error
        finally:
            adapter.loading = None
        adapter.failures, adapter.error, adapter.state = 0, None, State.RESIDENT

    async def _add_to_engine(self, adapter: _Adapter, path: Path) -> None:
        try:
            await self._engine.add_lora(adapter.uid, path)
        except BaseException:
            self._placed.discard(adapter.uid)
            raise

    async def _make_room(self, uid: str) -> None:
        async with self._placing:
            while len(self._placed) >= self._capacity:
                await self._evict_idle()
            self._placed.add(uid)

    async def _evict_idle(self) -> None:
        victim = next(
            (a for a in self._adapters.values() if a.state is State.RESIDENT and not a.pins), None
        )
        if victim is None:
            raise Overloaded(
                f"all {self._capacity} adapter places of this engine are in use; retry in a moment"
            )
        # Off the books first: a request that arrives during the removal loads it anew.
        victim.state = State.REMOTE
        self._placed.discard(victim.uid)
        await self._engine.remove_lora(victim.uid)

    def _record_failure(self, adapter: _Adapter, error: FoundryError) -> FoundryError:
        adapter.failures += 1
        backoff = min(2.0 ** (adapter.failures - 1), MAX_BACKOFF_S)
        adapter.retry_at = self._clock() + backoff
        adapter.error = error
        final = adapter.failures >= FAILURES_UNTIL_FAILED
        adapter.state = State.FAILED if final else State.REMOTE
        _log.warning("adapter %s: attempt %d: %s", adapter.uid, adapter.failures, error.message)
        return _unavailable_error(error, backoff)

    def _forget_idle(self) -> None:
        """Bound the book-keeping: adapters that are neither resident nor in use nor in backoff."""
        if len(self._adapters) <= 4 * self._capacity:
            return
        for uid, adapter in list(self._adapters.items()):
            idle = adapter.state is not State.RESIDENT and not adapter.pins
            if idle and adapter.loading is None and adapter.retry_at <= self._clock():
                del self._adapters[uid]


def _unavailable_error(error: FoundryError, wait_s: float) -> NoHealthyUpstream:
    return NoHealthyUpstream(
        f"the adapter cannot be loaded: {error.message}; it is tried again in {wait_s:.0f} s",
        retry_after_s=round(wait_s, 3),
        cause=error.code,
    )
