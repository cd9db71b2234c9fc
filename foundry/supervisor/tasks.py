"""One task per thing, each with its own deadline and backoff.

A reconciler lists what is not as desired and offers one step of each. Steps of different things run
side by side, so neither an exception nor a call that hangs delays another thing.

    offered ──> running ──done────> forgotten (the next pass offers it again)
                   │
                   │  └──another wish──> cancelled ──> offered
                   └──raises, late──> waiting 1, 2, 4 … 60 s ──> offered
                                         └──another wish──> offered at once

The wish is what the step is to achieve. A step or a wait for an earlier one is of no use any more:
it would keep a user's `stop` from being begun for a minute and longer.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import dataclass

from foundry.errors import DatabaseUnavailable, LeaseLost

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
    wish: Hashable


@dataclass(frozen=True, slots=True)
class _Running:
    task: asyncio.Task[None]
    wish: Hashable


class KeyedTasks:
    """At most one running step per key; a key whose step failed waits before it is tried again."""

    def __init__(
        self,
        name: str,
        *,
        deadline_s: float = STEP_DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing that runs.

        Args:
            name: what the keys are, for the log.
        """
        self._name = name
        self._deadline_s = deadline_s
        self._clock = clock
        self._running: dict[Hashable, _Running] = {}
        self._retries: dict[Hashable, _Retry] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def offer(
        self, key: Hashable, step: Callable[[], Awaitable[object]], wish: Hashable = None
    ) -> bool:
        """Start `step` unless the key's last one still runs or waits. Returns whether it began.

        Args:
            wish: what the step is to achieve. Another one than before cancels the step that runs,
                which is offered again by the next pass, and ends the wait after a failure. A step
                that is offered with wishes may therefore be cancelled at any point.
        """
        running, retry = self._running.get(key), self._retries.get(key)
        if running is not None:
            if running.wish != wish:
                running.task.cancel()
            return False
        if retry is not None and retry.wish == wish and retry.not_before > self._clock():
            return False
        if retry is not None and retry.wish != wish:
            del self._retries[key]
        task = asyncio.create_task(self._run(key, step, wish), name=f"{self._name}:{key}")
        self._running[key] = _Running(task, wish)
        task.add_done_callback(lambda _: self._running.pop(key, None))
        return True

    def list_busy(self) -> set[Hashable]:
        """Keys whose step runs or waits to be tried again: offering them would change nothing."""
        now = self._clock()
        waiting = {key for key, retry in self._retries.items() if retry.not_before > now}
        return waiting | self._running.keys()

    def list_busy_with(self, wish: Hashable) -> set[Hashable]:
        """Keys that a step with this wish would find running, or waiting after one like it."""
        now = self._clock()
        waiting = {
            key
            for key, retry in self._retries.items()
            if retry.wish == wish and retry.not_before > now
        }
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
            await asyncio.wait({running.task for running in self._running.values()})

    async def close(self) -> None:
        """Cancel what runs and wait for it."""
        for running in self._running.values():
            running.task.cancel()
        await self.drain()

    async def _run(
        self, key: Hashable, step: Callable[[], Awaitable[object]], wish: Hashable
    ) -> None:
        async with self._slots:
            try:
                async with asyncio.timeout(self._deadline_s):
                    await step()
            except DatabaseUnavailable:
                log.warning("%s %s: PostgreSQL cannot be reached; trying again", self._name, key)
                self._back_off(key, wish)
            except LeaseLost as error:
                # Another supervisor acts now: no fault of the step's.
                log.warning("%s %s: %s", self._name, key, error.message)
                self._back_off(key, wish)
            except Exception:
                # Libraries raise what they like (Ray: TimeoutError, KeyError, RuntimeError); only
                # this thing waits for it.
                log.exception("%s %s: a step failed; trying again", self._name, key)
                self._back_off(key, wish)
            else:
                self._retries.pop(key, None)

    def _back_off(self, key: Hashable, wish: Hashable) -> None:
        failures = self.failures_of(key) + 1
        wait = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures - 1, 10))
        self._retries[key] = _Retry(failures, self._clock() + wait, wish)
