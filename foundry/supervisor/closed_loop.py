"""The closed loop's turns: measured windows become outcomes, and deployments are reviewed.

A review searches for every endpoint and takes minutes, so it has a turn of its own:

    windows closed -> corrections -> an alarm goes on ──brings forward──> review
                                          a day has passed ─────────────> review
"""

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from foundry.supervisor.loop import Chore

# A look at the clock; whether a review is due is decided by it.
_LOOK_S = 60.0
# A review that failed searched for nothing that would be different a minute later.
_AGAIN_S = 3600.0
# A search for each endpoint that runs, one after the other, half a minute each on two cores.
_REVIEW_DEADLINE_S = 6 * 3600.0


class ClosesWindows(Protocol):
    async def close_windows(self) -> int:
        """Close what has ended. Returns the number of new outcomes."""


class CompletesExpectations(Protocol):
    async def predict_missing(self) -> int:
        """Predict what runs without a prediction. Returns how many were made."""


class PublishesAccuracy(Protocol):
    async def publish(self) -> bool:
        """Publish how well predictions hold. Returns whether an alarm has gone on since."""


class ClosedLoop:
    """Remembers when the next review is due; a new supervisor begins with one."""

    def __init__(
        self,
        closing: ClosesWindows,
        expectations: CompletesExpectations,
        accuracy: PublishesAccuracy,
        review: Callable[[], Awaitable[object]],
        *,
        close_s: float,
        review_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with a review that is due.

        Args:
            close_s, review_s: between looks at finished windows, and between reviews.
        """
        self._closing = closing
        self._expectations = expectations
        self._accuracy = accuracy
        self._review = review
        self._close_s = close_s
        self._review_s = review_s
        self._clock = clock
        self._review_at = clock()

    def list_chores(self) -> list[Chore]:
        """Its turns, for the supervisor."""
        look_s = min(_LOOK_S, self._review_s)
        return [
            Chore("outcomes", self.close_windows, self._close_s),
            Chore("reviews", self.review_if_due, look_s, _REVIEW_DEADLINE_S),
        ]

    async def close_windows(self) -> None:
        """Predict what has no prediction, close what ended; a new alarm brings the review forward.

        Raises:
            DatabaseUnavailable: the next turn does it all.
        """
        await self._expectations.predict_missing()
        if await self._closing.close_windows() and await self._accuracy.publish():
            self._review_at = self._clock()

    async def review_if_due(self) -> bool:
        """Review if it is time. Returns whether it was; one that fails is due again in an hour."""
        began = self._clock()
        if began < self._review_at:
            return False
        # Before it begins: what is brought forward meanwhile is another one.
        retry_at = self._review_at = began + min(_AGAIN_S, self._review_s)
        await self._review()
        if self._review_at == retry_at:
            self._review_at = began + self._review_s
        return True
