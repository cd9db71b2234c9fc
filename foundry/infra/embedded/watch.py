"""When to repair a stack: decisions only, from what was seen and the time.

A part goes through

    answers ──silent──▶ suspected ──its patience passes──▶ repair ──answers──▶ answers
       ▲                    │                                 │
       └──────answers───────┘        still silent, pause over ┘ (the pause doubles)

and a stopped process (SIGSTOP: it holds its port and answers nobody) is killed after `_FROZEN_S`,
so that whoever owns it (Ray, Serve, PostgreSQL, or the guard) starts another. Repairs that do not
help come less and less often; `_CALM_S` of health forgets them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

_Key = TypeVar("_Key", int, str)
# A debugger stops a process for moments; nobody waits longer than this for one that was forgotten.
_FROZEN_S = 6.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
_CALM_S = 600.0


@dataclass(frozen=True, slots=True)
class Silence:
    """A part that did not answer.

    Attributes:
        patience_s: how long it may stay silent: what usually mends it by itself takes less.
    """

    part: str
    seen: str
    patience_s: float


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one time: silent parts, and stopped processes as pid and name."""

    silences: tuple[Silence, ...] = ()
    frozen: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now: processes to kill, and the reasons to repair the stack, if any."""

    kill: tuple[tuple[int, str], ...] = ()
    repair: tuple[str, ...] = ()


class Watch:
    """Remembers since when what has been wrong."""

    def __init__(self) -> None:
        self._silent_since: dict[str, float] = {}
        self._frozen_since: dict[int, float] = {}
        self._repairs = 0
        self._not_before = float("-inf")
        self._calm_since: float | None = None

    def decide(self, look: Look, now: float) -> Decision:
        _keep(self._silent_since, (silence.part for silence in look.silences), now)
        _keep(self._frozen_since, (pid for pid, _ in look.frozen), now)
        self._note_calm(look, now)
        kill = tuple(item for item in look.frozen if now - self._frozen_since[item[0]] >= _FROZEN_S)
        reasons = tuple(
            f"{silence.part}: {silence.seen}"
            for silence in look.silences
            if now - self._silent_since[silence.part] >= silence.patience_s
        )
        return Decision(kill, reasons if now >= self._not_before else ())

    def repaired(self, now: float) -> float:
        """A repair has ended, well or not. Returns the pause before another may begin."""
        pause = min(_FIRST_PAUSE_S * 2.0**self._repairs, _LONGEST_PAUSE_S)
        self._repairs += 1
        self._not_before = now + pause
        self._calm_since = None
        return pause

    def _note_calm(self, look: Look, now: float) -> None:
        if look.silences:
            self._calm_since = None
            return
        self._calm_since = now if self._calm_since is None else self._calm_since
        if now - self._calm_since >= _CALM_S:
            self._repairs = 0


def _keep(since: dict[_Key, float], wrong: Iterable[_Key], now: float) -> None:
    """Forget what is right again, note what has become wrong."""
    current = set(wrong)
    for gone in since.keys() - current:
        del since[gone]
    for key in current:
        since.setdefault(key, now)
