"""`python -m foundry.infra.embedded.guard_process`: the guard of the stack in FOUNDRY_HOME."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

from foundry.config import LOOPBACK, Settings, load_settings
from foundry.errors import AlreadyRunning
from foundry.infra.embedded import postgres, stack
from foundry.infra.embedded.guard import Guard, write_repair
from foundry.infra.embedded.health import find_supervisor
from foundry.infra.embedded.ports import listens
from foundry.infra.embedded.processes import members, process_of
from foundry.infra.embedded.state import StackState, exclusive, load, stack_id
from foundry.infra.embedded.watch import Look, Silence

_TURN_S = 2.0
# Dead is dead. A server that recovers refuses callers for a while; Ray and Serve restart their own
# actors within that time, and only where they do not, somebody must.
_DEAD_S, _RECOVERING_S, _RAY_MENDS_S = 2.0, 30.0, 45.0
log = logging.getLogger(__name__)


def look_for_silent(settings: Settings, state: StackState | None) -> Look:
    """Which parts of the stack in this home do not answer."""
    processes = members(stack_id(settings.home))
    return Look((*_postgres(settings), *_ray(settings, state, processes)))


def look_for_frozen(settings: Settings) -> Look:
    """Which processes of the stack in this home are stopped."""
    return Look(frozen=tuple(_frozen(settings)))


def _frozen(settings: Settings) -> Iterator[tuple[int, str]]:
    for process in members(stack_id(settings.home)):
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_STOPPED:
                yield process.pid, process.name()


def _postgres(settings: Settings) -> Iterator[Silence]:
    if settings.database.url is not None:
        return
    if postgres.running_pid(settings.home) is None:
        yield Silence("postgres", "its process is gone", _DEAD_S)
    elif postgres.ask(settings.home) is postgres.Reply.SILENT:
        yield Silence("postgres", "it runs and does not answer", _RECOVERING_S)


def _ray(
    settings: Settings, state: StackState | None, processes: list[psutil.Process]
) -> Iterator[Silence]:
    if settings.ray.address is not None:
        return
    known = state.pids.get("ray") if state is not None else None
    if known is None or process_of(*known) is None:
        yield Silence("ray", "its head is gone", _DEAD_S)
        return
    if not listens(LOOPBACK, settings.ray.port):
        yield Silence("ray", f"nothing listens on {settings.ray.port}", _RECOVERING_S)
    if find_supervisor(processes) is None:
        yield Silence("supervisor", "its actor is gone", _RAY_MENDS_S)
    if not listens(settings.http.host, settings.http.port):
        yield Silence("http", f"nothing listens on {settings.http.port}", _RAY_MENDS_S)


def watch_over(settings: Settings) -> None:
    """Until the stack is gone: its home deleted, or taken down."""

    def repair() -> None:
        stack.complete(settings, log.info)

    mender = Guard(
        look=lambda: look_for_silent(settings, load(settings.home)),
        kill=_kill,
        repair=repair,
        record=partial(write_repair, settings.home),
    )
    killer = Guard(
        look=lambda: look_for_frozen(settings),
        kill=_kill,
        repair=lambda: None,
        record=partial(write_repair, settings.home),
    )
    # Apart, for a repair may wait for the very process that is frozen.
    threading.Thread(target=_turn, args=(killer, settings.home), daemon=True).start()
    _turn(mender, settings.home)


def _turn(guard: Guard, home: Path) -> None:
    while home.is_dir() and load(home) is not None:
        guard.turn()
        time.sleep(_TURN_S)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    # As an exception, so that a repair ends its own step.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    settings = load_settings()
    with suppress(AlreadyRunning), exclusive(settings.home, "the guard", name="guard.lock"):
        watch_over(settings)


if __name__ == "__main__":
    main()
