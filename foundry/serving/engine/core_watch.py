"""Whether an engine's core still answers: a process that is frozen dies of nothing by itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from foundry.errors import EngineFailed

# Between two steps a core answers at once; the longest step, a prefill of the whole context on a
# loaded CPU, takes seconds.
SILENCE_S = 60.0


class CoreWatch:
    """Keeps one question to the core open, and tells how long it has been unanswered.

    Args:
        ask: a question that the core answers between two steps.
        silence_s: after which the core counts as dead.
        clock: a monotonic one.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[object]],
        *,
        silence_s: float = SILENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._silence_s = silence_s
        self._clock = clock
        self._question: asyncio.Task[object] | None = None
        self._asked_at = 0.0

    async def check(self) -> None:
        """Returns at once; the answer to this question is looked at by the next check.

        Raises:
            EngineFailed: the last question failed, or nobody has answered it for `silence_s`.
        """
        if self._question is not None and not self._question.done():
            silent_s = self._clock() - self._asked_at
            if silent_s > self._silence_s:
                raise EngineFailed(f"the engine's core has answered nothing for {silent_s:.0f} s")
            return
        if self._question is not None and (error := self._question.exception()) is not None:
            raise EngineFailed("the engine's core failed on a question") from error
        self._asked_at = self._clock()
        self._question = asyncio.ensure_future(self._ask())

    def close(self) -> None:
        if self._question is not None:
            self._question.cancel()
