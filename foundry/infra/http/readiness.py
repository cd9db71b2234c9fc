"""Whether requests can be answered, for probes: cheap however often it is asked.

Load balancers of every node, kubelets and operators ask at once, and most often when PostgreSQL is
slow. So there is one ping at a time, its verdict holds for a second, and a ping that hangs is a
verdict too.
"""

import asyncio
import logging
import time
from typing import Protocol

from foundry.errors import DatabaseUnavailable, FoundryError, Overloaded

TTL_S = 1.0
# A new connection on a busy machine takes up to a second; probers give up after 2 to 5 s.
PING_TIMEOUT_S = 2.0
# Probes that may wait for the one ping; more are answered at once.
MAX_WAITING = 32
log = logging.getLogger(__name__)


class Pingable(Protocol):
    async def ping(self) -> None:
        """Ask the database for an answer; raises DatabaseUnavailable without one."""


class Readiness:
    """The last verdict about the database, at most `TTL_S` old."""

    def __init__(
        self, database: Pingable, *, ttl_s: float = TTL_S, timeout_s: float = PING_TIMEOUT_S
    ) -> None:
        self._database = database
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._fault: FoundryError | None = None
        self._checked_at = float("-inf")
        self._started_at = float("-inf")
        self._running: asyncio.Task[None] | None = None
        self._waiting = 0

    async def check_ready(self) -> None:
        """Return if requests can be answered.

        Raises:
            DatabaseUnavailable: PostgreSQL does not answer.
            Overloaded: too many probes wait for the answer.
        """
        if time.monotonic() - self._checked_at >= self._ttl_s:
            await self._await_ping()
        if self._fault is not None:
            raise type(self._fault)(self._fault.message)

    async def _await_ping(self) -> None:
        if self._running is None:
            self._started_at = time.monotonic()
            self._running = asyncio.create_task(self._ping(), name="readiness")
        elif self._waiting >= MAX_WAITING:
            raise Overloaded("too many probes at once; retry after a moment")
        left_s = self._started_at + self._timeout_s - time.monotonic()
        self._waiting += 1
        try:
            # Not cancelled with the probe: the others wait for the same ping.
            done, _ = await asyncio.wait({self._running}, timeout=max(left_s, 0))
        finally:
            self._waiting -= 1
        if not done:
            raise DatabaseUnavailable(
                f"PostgreSQL did not answer within {self._timeout_s:g} seconds; "
                "it recovers by itself when the database is back: see `foundry status`"
            )

    async def _ping(self) -> None:
        try:
            await self._database.ping()
            self._fault = None
        except FoundryError as error:
            self._fault = error
        except Exception:
            # Whatever it is: an unknown fault must not leave the verdict "ready".
            log.exception("the ping of PostgreSQL failed")
            self._fault = DatabaseUnavailable(
                "PostgreSQL does not answer as it should: see `foundry status` and the log"
            )
        finally:
            self._checked_at = time.monotonic()
            self._running = None
