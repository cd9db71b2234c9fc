"""When to act on a stack: decisions only, from what was seen and the time.

A part that a repair can bring back:

    answers ──silent──▶ suspected ──its patience passes──▶ repair ──answers──▶ answers
       ▲                    │                                 │
       └──────answers───────┘        still silent, pause over ┘ (the pause doubles)

A process that a signal stopped (it holds its port and answers nobody):

    runs ──stopped──▶ suspected ──6 s──▶ killed: whoever owns it (Ray, Serve, PostgreSQL, or the
     ▲                    │                      repair above) starts another
     └─────resumed────────┘

Repairs that do not help come less and less often; `_CALM_S` of health forgets them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

_Key = TypeVar("_Key", int, str)
# A debugger stops a process for moments; nobody waits longer than this for one that was forgotten.
_FROZEN_S = 6.0
# The first pause lets a repair take effect; the longest still heals a stack within minutes after
# whatever stood in the way (a full disk, a taken port) has gone.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
# Twice the longest pause: a part that dies again after each repair is not taken for healed.
_CALM_S = 600.0


@dataclass(frozen=True, slots=True)
class Silence:
    """A part that does not do its work.

    Attributes:
        patience_s: how long it may stay so: what usually mends it by itself takes less.
        in_the_way: a process that is there without working, and must go before another begins.
    """

    part: str
    seen: str
    patience_s: float
    in_the_way: int | None = None


class SilenceWatch:
    """Remembers since when which part has been silent, and paces repairs."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._repairs = 0
        self._not_before = float("-inf")
        self._calm_since: float | None = None

    def choose_repairs(self, silences: Iterable[Silence], now: float) -> tuple[Silence, ...]:
        """Those whose patience is over; none during the pause after a repair."""
        seen = tuple(silences)
        _update_since(self._since, (silence.part for silence in seen), now)
        self._note_calm(seen, now)
        if now < self._not_before:
            return ()
        return tuple(each for each in seen if now - self._since[each.part] >= each.patience_s)

    def note_repair(self, now: float) -> float:
        """A repair has ended, well or not. Returns the pause before another may begin."""
        pause = min(_FIRST_PAUSE_S * 2.0**self._repairs, _LONGEST_PAUSE_S)
        self._repairs += 1
        self._not_before = now + pause
        self._calm_since = None
        return pause

    def _note_calm(self, silences: tuple[Silence, ...], now: float) -> None:
        if silences:
            self._calm_since = None
            return
        self._calm_since = now if self._calm_since is None else self._calm_since
        if now - self._calm_since >= _CALM_S:
            self._repairs = 0


class FreezeWatch:
    """Remembers since when which process has been stopped."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}

    def choose_kills(
        self, frozen: Iterable[tuple[int, str]], now: float
    ) -> tuple[tuple[int, str], ...]:
        """Those that nobody has resumed in time; each is a pid and a name."""
        seen = tuple(frozen)
        _update_since(self._since, (pid for pid, _ in seen), now)
        return tuple(each for each in seen if now - self._since[each[0]] >= _FROZEN_S)


def _update_since(since: dict[_Key, float], wrong: Iterable[_Key], now: float) -> None:
    """Forget what is right again, note what has become wrong."""
    current = set(wrong)
    for gone in since.keys() - current:
        del since[gone]
    for key in current:
        since.setdefault(key, now)
