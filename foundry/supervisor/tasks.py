"""One task per thing, each with its own deadline and backoff.

A reconciler lists what is not as desired and offers one step of each. Steps of different things run
side by side, so neither an exception nor a call that hangs delays another thing.

    offered ──> running ──done────> forgotten (the next pass offers it again)
                   │
                   └──raises, late──> waiting 1, 2, 4 … 60 s ──> offered
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import dataclass

from foundry.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

# A step is a few calls of Ray or PostgreSQL; the longest, an engine's test requests, has less.
STEP_DEADLINE_S = 180.0
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 60.0
# Steps wait for Ray most of the time; the bound keeps a burst from opening a session each.
_AT_ONCE = 16


@dataclass(slots=True)
class _Retry:
    failures: int
    not_before: float


class KeyedTasks:
    """At most one running step per key; a key whose step failed waits before it is tried again."""

    def __init__(
        self,
        name: str,
        *,
        deadline_s: float = STEP_DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: name: what the keys are, for the log."""
        self._name = name
        self._deadline_s = deadline_s
        self._clock = clock
        self._running: dict[Hashable, asyncio.Task[None]] = {}
        self._retries: dict[Hashable, _Retry] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def offer(self, key: Hashable, step: Callable[[], Awaitable[object]]) -> bool:
        """Start `step` unless the key's last one still runs or waits. Returns whether it began."""
        retry = self._retries.get(key)
        if key in self._running or (retry is not None and retry.not_before > self._clock()):
            return False
        task = asyncio.create_task(self._run(key, step), name=f"{self._name}:{key}")
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return True

    def list_busy(self) -> set[Hashable]:
        """Keys whose step runs or waits to be tried again: offering them would change nothing."""
        now = self._clock()
        waiting = {key for key, retry in self._retries.items() if retry.not_before > now}
        return waiting | self._running.keys()

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Forget the failures of things that are no longer offered."""
        for key in [key for key in self._retries if key not in keys]:
            del self._retries[key]

    def failures_of(self, key: Hashable) -> int:
        """How often in a row the key's step has failed."""
        retry = self._retries.get(key)
        return retry.failures if retry is not None else 0

    async def drain(self) -> None:
        """Wait until every step that runs has ended."""
        while self._running:
            await asyncio.wait(set(self._running.values()))

    async def close(self) -> None:
        """Cancel what runs and wait for it."""
        for task in self._running.values():
            task.cancel()
        await self.drain()

    async def _run(self, key: Hashable, step: Callable[[], Awaitable[object]]) -> None:
        async with self._slots:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await step()
            except DatabaseUnavailable:
                log.warning("%s %s: PostgreSQL cannot be reached; trying again", self._name, key)
                self._back_off(key)
            except Exception:
                # Libraries raise what they like (Ray: TimeoutError, KeyError, RuntimeError); only
                # this thing waits for it.
                log.exception("%s %s: a step failed; trying again", self._name, key)
                self._back_off(key)
            else:
                self._retries.pop(key, None)

    def _back_off(self, key: Hashable) -> None:
        failures = self.failures_of(key) + 1
        wait = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures - 1, 10))
        self._retries[key] = _Retry(failures, self._clock() + wait)
