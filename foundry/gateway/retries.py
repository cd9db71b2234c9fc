"""How many requests may be tried again: a share of the recent ones, lest retries add a storm."""

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 10.0
SHARE = 0.1
# Retries per window that are always allowed: a quiet gateway, too, survives a replica's restart.
FLOOR = 5


class RetryBudget:
    """A sliding window of requests and retries of one gateway process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: deque[float] = deque()
        self._retries: deque[float] = deque()

    def count_request(self) -> None:
        self._requests.append(self._clock())
        self._forget_old(self._requests)

    def take_retry(self) -> bool:
        """Take one more retry from the budget; false: there is none left."""
        self._forget_old(self._requests)
        self._forget_old(self._retries)
        if len(self._retries) >= max(FLOOR, SHARE * len(self._requests)):
            return False
        self._retries.append(self._clock())
        return True

    def _forget_old(self, times: deque[float]) -> None:
        oldest = self._clock() - WINDOW_S
        while times and times[0] <= oldest:
            times.popleft()
