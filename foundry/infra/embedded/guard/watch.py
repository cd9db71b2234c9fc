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


@dataclass(slots=True)
class _Pace:
    """How often a part is repaired.

    Attributes:
        repairs: since its last long calm.
        not_before: of the next one.
        calm_since: it has not been silent; None: it is, or was just repaired.
    """

    repairs: int = 0
    not_before: float = float("-inf")
    calm_since: float | None = None


class SilenceWatch:
    """Remembers since when which part has been silent, and paces the repairs of each.

    Apart, because a part that dies again and again is no reason to let another one wait.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._paces: dict[str, _Pace] = {}

    def choose_repairs(self, silences: Iterable[Silence], now: float) -> tuple[Silence, ...]:
        """Those whose patience is over; none that is in the pause after its last repair."""
        seen = tuple(silences)
        _update_since(self._since, (silence.part for silence in seen), now)
        self._note_calm({silence.part for silence in seen}, now)
        return tuple(
            each
            for each in seen
            if now - self._since[each.part] >= each.patience_s
            and now >= self._paces.get(each.part, _Pace()).not_before
        )

    def note_repair(self, repaired: Iterable[Silence], now: float) -> float:
        """A repair has ended, well or not. Returns the pause before another of these may begin."""
        pauses = [0.0]
        for silence in repaired:
            pace = self._paces.setdefault(silence.part, _Pace())
            pause = min(_FIRST_PAUSE_S * 2.0**pace.repairs, _LONGEST_PAUSE_S)
            pace.repairs += 1
            pace.not_before = now + pause
            pace.calm_since = None
            pauses.append(pause)
        return max(pauses)

    def _note_calm(self, silent: set[str], now: float) -> None:
        for part, pace in list(self._paces.items()):
            if part in silent:
                pace.calm_since = None
            elif pace.calm_since is None:
                pace.calm_since = now
            elif now - pace.calm_since >= _CALM_S:
                del self._paces[part]


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
