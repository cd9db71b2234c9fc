"""The guard of the stack in FOUNDRY_HOME: `python -m foundry.infra.embedded.guard_process`.

`foundry up` leaves it behind, `foundry down` ends it first.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from foundry.config import Settings, load_settings
from foundry.errors import AlreadyRunning
from foundry.infra.embedded import stack
from foundry.infra.embedded.guard.repairs import write_repair
from foundry.infra.embedded.guard.turns import FreezeKiller, PartRepairer
from foundry.infra.embedded.guard.watch import Silence
from foundry.infra.embedded.health import Condition, PartStatus, inspect_parts
from foundry.infra.embedded.home_lock import lock_home
from foundry.infra.embedded.ports import is_listening
from foundry.infra.embedded.processes import list_stack_processes
from foundry.infra.embedded.state import has_state, load_state, stack_id
from foundry.infra.logs import configure_logging

_TURN_S = 2.0
# Dead is dead. A server that recovers refuses callers for a while; Ray and Serve restart their own
# actors within that time, and only where they do not, somebody must.
_DEAD_S, _RECOVERING_S, _RAY_MENDS_S = 2.0, 30.0, 45.0
# What is not here mends itself, or is ended as frozen: a replica that answers wrongly is Serve's, a
# PostgreSQL that refuses callers recovers.
_PATIENCE_S: Mapping[tuple[str, Condition], float] = {
    ("postgres", Condition.GONE): _DEAD_S,
    ("postgres", Condition.SILENT): _RECOVERING_S,
    ("ray", Condition.GONE): _DEAD_S,
    ("ray", Condition.SILENT): _RECOVERING_S,
    ("supervisor", Condition.GONE): _RAY_MENDS_S,
    ("supervisor", Condition.STUCK): _RAY_MENDS_S,
    ("gateway", Condition.GONE): _RAY_MENDS_S,
    ("control", Condition.GONE): _RAY_MENDS_S,
}
log = logging.getLogger(__name__)


def list_silences(settings: Settings, parts: Iterable[PartStatus]) -> Iterator[Silence]:
    """Which of the parts a repair on this machine can bring back."""
    for part in parts:
        on_foreign_ray = settings.ray.address is not None and part.part != "postgres"
        patience_s = _PATIENCE_S.get((part.part, part.condition))
        if patience_s is None or part.external or on_foreign_ray:
            continue
        in_the_way = part.pid if part.condition is Condition.STUCK else None
        yield Silence(part.part, part.detail, patience_s, in_the_way)


def probe_listener(url: str) -> int | None:
    """200 if something listens there: all that the guard acts on.

    A GET every two seconds would fill the applications' logs, and whether a replica answers is
    Serve's to see.
    """
    parts = urlsplit(url)
    listening = is_listening(parts.hostname or "", parts.port or 80)
    return 200 if listening else None


def list_frozen(settings: Settings) -> Iterator[tuple[int, str]]:
    """Pid and name of each process of the stack in this home that is stopped."""
    for process in list_stack_processes(stack_id(settings.home)):
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                yield process.pid, process.name()


def repair_parts(settings: Settings, silences: Iterable[Silence]) -> None:
    """Remove what is in the way, and start what is missing. Raises as `start_missing_parts`."""
    for silence in silences:
        if silence.in_the_way is not None:
            kill_process(silence.in_the_way)
    stack.start_missing_parts(settings, log.info)


def kill_process(pid: int) -> None:
    """End it at once, if it still is there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def watch_over(settings: Settings) -> None:
    """Until the stack is gone: its home deleted, or taken down."""
    record = partial(write_repair, settings.home)

    def look() -> Iterator[Silence]:
        state = load_state(settings.home)
        return list_silences(settings, inspect_parts(settings, state, probe_listener))

    repairer = PartRepairer(
        look=look,
        repair=partial(repair_parts, settings),
        record=record,
    )
    killer = FreezeKiller(look=lambda: list_frozen(settings), kill=kill_process, record=record)
    # Apart, for a repair may wait for the very process that is frozen.
    threading.Thread(
        target=_take_turns, args=(killer.take_turn, settings.home), daemon=True
    ).start()
    _take_turns(repairer.take_turn, settings.home)


def _take_turns(take_turn: Callable[[], None], home: Path) -> None:
    while home.is_dir() and has_state(home):
        attempt_turn(take_turn)
        time.sleep(_TURN_S)


def attempt_turn(take_turn: Callable[[], None]) -> None:
    """Whatever goes wrong ends this turn only."""
    try:
        take_turn()
    except Exception:
        # Whatever it is: a guard that ends leaves the stack without one.
        log.exception("this turn failed; looking again later")


def main() -> None:
    configure_logging(timed=True)
    # As an exception, so that a repair ends its own step.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    settings = load_settings()
    with suppress(AlreadyRunning), lock_home(settings.home, "the guard", name="guard.lock"):
        watch_over(settings)


if __name__ == "__main__":
    main()
