"""How long to wait, and how much silence of the server to bear meanwhile."""

import time

from foundry.errors import DeadlineExceeded, Unavailable

POLL_S = 0.5
# Longer than a gateway or a database takes to restart.
_SILENCE_S = 60.0


class Patience:
    """Attributes: what: is being waited for, named in errors."""

    def __init__(self, what: str, timeout_s: float | None) -> None:
        self.what = what
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._heard = time.monotonic()

    def answered(self) -> None:
        self._heard = time.monotonic()

    def failed(self, error: Unavailable) -> None:
        """Raises the error: the server has been silent for too long."""
        if time.monotonic() - self._heard > _SILENCE_S:
            raise error

    def pause(self, poll_s: float) -> float:
        """Seconds to sleep before the next look.

        Raises:
            DeadlineExceeded: there is no time for another.
        """
        if self._deadline is None:
            return poll_s
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"{self.what} was not done within {self._timeout_s:g} s")
        return min(poll_s, left)
