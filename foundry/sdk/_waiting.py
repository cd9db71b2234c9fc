"""How long to wait, and how much silence of the server to bear meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar
from uuid import UUID

from foundry.errors import DeadlineExceeded, NotFound, Unavailable

POLL_S = 0.5
# Longer than a gateway or a database takes to restart.
_SILENCE_S = 60.0


class _Row(Protocol):
    @property
    def id(self) -> UUID: ...


T = TypeVar("T", bound=_Row)


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
        """Raise the error if the server has been silent for too long."""
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


def until(
    look: Callable[[UUID | str], T],
    reference: UUID | str,
    ended: Callable[[T], bool],
    on_update: Callable[[T], None] | None,
    patience: Patience,
    poll_s: float,
    *,
    gone_ends: bool = False,
) -> T:
    """What `look` found once it has ended. Outlasts a server that restarts.

    Args:
        reference: of what to look at; after the first look its id, as what `last` means changes.
        on_update: called after every look.
        gone_ends: what is gone after a look has ended too, as it was last seen.
    """
    last: T | None = None
    while True:
        try:
            last = look(reference if last is None else last.id)
        except NotFound:
            if last is None or not gone_ends:
                raise
            return last
        except Unavailable as error:
            patience.failed(error)
        else:
            if _take_look(last, ended, on_update, patience):
                return last
        time.sleep(patience.pause(poll_s))


async def until_async(
    look: Callable[[UUID | str], Awaitable[T]],
    reference: UUID | str,
    ended: Callable[[T], bool],
    on_update: Callable[[T], None] | None,
    patience: Patience,
    poll_s: float,
    *,
    gone_ends: bool = False,
) -> T:
    """Look until it has ended, with asyncio; see `until`."""
    last: T | None = None
    while True:
        try:
            last = await look(reference if last is None else last.id)
        except NotFound:
            if last is None or not gone_ends:
                raise
            return last
        except Unavailable as error:
            patience.failed(error)
        else:
            if _take_look(last, ended, on_update, patience):
                return last
        await asyncio.sleep(patience.pause(poll_s))


def _take_look(
    found: T,
    ended: Callable[[T], bool],
    on_update: Callable[[T], None] | None,
    patience: Patience,
) -> bool:
    patience.answered()
    if on_update is not None:
        on_update(found)
    return ended(found)
