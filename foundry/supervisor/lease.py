"""The lease under which one supervisor of a cluster acts; others wait for it.

waiting ──taken──> holding ──renewed every 3 s──> holding
                      └──not renewed for 15 s──> lost: another may hold it with a larger token

The row's end is by PostgreSQL's clock. This side's clock only says when it is worth asking; it goes
on while the machine sleeps, so a laptop that wakes up does not believe in its old lease.
"""

import time
from collections.abc import Callable
from uuid import uuid4

from foundry.errors import LeaseLost
from foundry.infra.database import Database
from foundry.serving.endpoints.supervision import Fence, give_up_lease, take_lease

# A supervisor that died is replaced after this; five renewals fit into it.
TTL_S = 15.0
RENEW_S = 3.0


def read_boot_clock() -> float:
    """Seconds that go on while the machine is suspended, which `time.monotonic` does not count."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """Taken and renewed by `take_or_renew`; what acts asks for the `fence` first."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = read_boot_clock,
        ttl_s: float = TTL_S,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ttl_s = ttl_s
        self._holder = uuid4().hex
        self._fence: Fence | None = None
        self._until = 0.0

    async def take_or_renew(self) -> bool:
        """Take or renew it. Returns whether this supervisor acts."""
        # Counted from before the call: the row expires later than this side believes.
        asked_at = self._clock()
        self._fence = await take_lease(self._database, self._holder, self._ttl_s)
        self._until = asked_at + self._ttl_s
        return self._fence is not None

    async def confirm(self) -> None:
        """Ask PostgreSQL, immediately before an effect on the cluster, and renew.

        Raises:
            LeaseLost: another supervisor acts, or may by now.
        """
        self.fence()
        if not await self.take_or_renew():
            raise LeaseLost("another supervisor has taken over")

    async def give_up(self) -> None:
        """Let the next supervisor begin at once."""
        if self._fence is not None:
            self._fence = None
            await give_up_lease(self._database, self._holder)

    @property
    def held(self) -> bool:
        """Whether this supervisor may act, by its own clock."""
        return self._fence is not None and self._clock() < self._until

    def fence(self) -> Fence:
        """What every write names.

        Raises:
            LeaseLost: another supervisor may act by now.
        """
        if self._fence is None or not self.held:
            raise LeaseLost("this supervisor does not hold the lease")
        return self._fence
