"""What the guard does each turn: start again what is silent, end what is frozen.

`PartRepairer`, one turn:

    look ──nothing due──▶ done
      └──parts due──▶ repair ──ended well──────▶ "repaired", pause
                        ├──failed──────────────▶ "not repaired, next try in …", longer pause
                        └──a user's command is at work──▶ done: it goes first, no pause

`FreezeKiller`, one turn:

    look ──nothing stopped for 6 s──▶ done
      └──stopped──▶ kill it, tell; whoever owns it starts another

When something is due is decided in `watch`. The two run side by side, for a repair may wait for the
very process that is frozen.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from foundry.errors import AlreadyRunning, FoundryError
from foundry.infra.embedded.guard.repairs import Repair
from foundry.infra.embedded.guard.watch import FreezeWatch, Silence, SilenceWatch

Record = Callable[[Repair], None]
log = logging.getLogger(__name__)


class PartRepairer:
    """Starts again what has been silent for too long.

    Args:
        look: what is silent right now; quick, and with deadlines of its own.
        repair: removes what is in the way, and starts what is missing.
        record: keeps the last repair where others can read it.
        clock: a monotonic one.
    """

    def __init__(
        self,
        *,
        look: Callable[[], Iterable[Silence]],
        repair: Callable[[tuple[Silence, ...]], object],
        record: Record,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._repair, self._record, self._clock = look, repair, record, clock
        self._watch = SilenceWatch()

    def take_turn(self) -> None:
        """One look and the repair that follows from it."""
        due = self._watch.choose_repairs(self._look(), self._clock())
        if not due:
            return
        reason = "; ".join(f"{silence.part}: {silence.seen}" for silence in due)
        log.warning("repairing: %s", reason)
        try:
            self._repair(due)
        except AlreadyRunning:
            log.info("another command is at work here; looking again later")
            return
        except Exception as error:  # noqa: BLE001 - what escaped would be tried without a pause
            pause = self._watch.note_repair(due, self._clock())
            said = error.message if isinstance(error, FoundryError) else repr(error)
            _record_repair(self._record, reason, f"not repaired, next try in {pause:.0f} s: {said}")
            return
        self._watch.note_repair(due, self._clock())
        _record_repair(self._record, reason, "repaired")


class FreezeKiller:
    """Ends processes that a signal stopped and nobody resumed.

    Args:
        look: pid and name of each stopped process; quick.
        kill: ends a process at once.
        record: keeps the last kill where others can read it.
        clock: a monotonic one.
    """

    def __init__(
        self,
        *,
        look: Callable[[], Iterable[tuple[int, str]]],
        kill: Callable[[int], None],
        record: Record,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._kill, self._record, self._clock = look, kill, record, clock
        self._watch = FreezeWatch()

    def take_turn(self) -> None:
        """One look and the kills that follow from it."""
        for pid, name in self._watch.choose_kills(self._look(), self._clock()):
            _record_repair(
                self._record, f"{name} (pid {pid}) was stopped and answered nobody", "killed it"
            )
            self._kill(pid)


def _record_repair(record: Record, reason: str, outcome: str) -> None:
    log.warning("%s: %s", reason, outcome)
    with suppress(OSError):
        record(Repair(reason, outcome, time.time()))
