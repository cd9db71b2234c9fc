"""The guard: the one process of a stack that starts the others again.

`foundry up` leaves it behind, `foundry down` ends it first. A lock keeps it the only one of a home;
killed, it is missing in `foundry status` and the next `foundry up` brings it back.
"""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from foundry.config import child_environment
from foundry.errors import AlreadyRunning, FoundryError
from foundry.infra.embedded.paths import write_private
from foundry.infra.embedded.processes import list_stack_processes, stop_all
from foundry.infra.embedded.state import stack_id
from foundry.infra.embedded.watch import Look, Watch

MODULE = "foundry.infra.embedded.guard_process"
# It ends its own step of a repair first, which takes a moment.
_END_GRACE_S = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Repair:
    """The last thing that a guard did, as `foundry status` tells it."""

    reason: str
    outcome: str
    at: float


class Guard:
    """Looks, decides, acts.

    Args:
        look: what is wrong right now; quick, and with deadlines of its own.
        kill: ends a process at once.
        repair: starts what is missing.
        record: keeps the last repair where others can read it.
        clock: a monotonic one.
    """

    def __init__(
        self,
        *,
        look: Callable[[], Look],
        kill: Callable[[int], None],
        repair: Callable[[], object],
        record: Callable[[Repair], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._kill, self._repair, self._record = look, kill, repair, record
        self._clock = clock
        self._watch = Watch()

    def turn(self) -> None:
        """One look and what follows from it; whatever goes wrong ends this turn only."""
        try:
            self._act()
        except Exception:
            # Whatever it is: a guard that ends leaves the stack without one.
            log.exception("this turn failed; looking again later")

    def _act(self) -> None:
        decision = self._watch.decide(self._look(), self._clock())
        for pid, name in decision.kill:
            self._tell(f"{name} (pid {pid}) was stopped and answered nobody", "killed it")
            self._kill(pid)
        if decision.repair:
            self._mend("; ".join(decision.repair))

    def _mend(self, reason: str) -> None:
        log.warning("repairing: %s", reason)
        try:
            self._repair()
        except AlreadyRunning:
            log.info("another command is at work here; looking again later")
            return
        except Exception as error:  # noqa: BLE001 - what escaped would be tried without a pause
            pause = self._watch.repaired(self._clock())
            said = error.message if isinstance(error, FoundryError) else repr(error)
            self._tell(reason, f"not repaired, next try in {pause:.0f} s: {said}")
            return
        self._watch.repaired(self._clock())
        self._tell(reason, "repaired")

    def _tell(self, reason: str, outcome: str) -> None:
        log.warning("%s: %s", reason, outcome)
        with suppress(OSError):
            self._record(Repair(reason, outcome, time.time()))


def start_guard(home: Path, environment: Mapping[str, str]) -> None:
    """Leave one behind; a second one ends itself at the lock."""
    with (home / "logs" / "guard.log").open("ab") as output:
        # Not a context manager: the guard outlives this process.
        subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=child_environment(**environment),
            start_new_session=True,
        )


def find_guard(home: Path) -> psutil.Process | None:
    for process in list_stack_processes(stack_id(home)):
        with suppress(psutil.Error):
            if MODULE in process.cmdline():
                return process
    return None


def end_guard(home: Path) -> int:
    """End it, so that it does not start again what is being stopped. Returns how many ended."""
    found = find_guard(home)
    return 0 if found is None else stop_all([found], _END_GRACE_S)


def write_repair(home: Path, repair: Repair) -> None:
    write_private(_record_file(home), json.dumps(asdict(repair)))


def read_last_repair(home: Path) -> Repair | None:
    with suppress(OSError, ValueError, TypeError):
        return Repair(**json.loads(_record_file(home).read_text()))
    return None


def _record_file(home: Path) -> Path:
    return home / "run" / "guard.json"
