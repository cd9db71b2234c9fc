"""How the guard of a stack begins and ends.

absent ──`up` has started the stack──▶ watches ──`down`, or the next `up`──▶ absent
                                         │ ▲
                                 SIGSTOP ▼ │ SIGCONT
                                        frozen ──`up` replaces it; `status` and the supervisor tell

A lock keeps it the only one of a home; a second one ends itself there.
"""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from foundry.config import child_environment
from foundry.errors import Unavailable
from foundry.infra.embedded.processes import list_stack_processes, stop_processes
from foundry.infra.embedded.state import stack_id

MODULE = "foundry.infra.embedded.guard_process"
# It ends its own step of a repair first, which takes a moment.
_END_GRACE_S = 5.0


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
    """This home's guard, whether it works or is stopped."""
    return pick_guard(list_stack_processes(stack_id(home)))


def pick_guard(processes: Iterable[psutil.Process]) -> psutil.Process | None:
    """The guard among the processes of a stack."""
    for process in processes:
        with suppress(psutil.Error):
            if MODULE in process.cmdline():
                return process
    return None


def end_guard(home: Path) -> int:
    """End it, so that it does not start again what is being stopped. Returns how many ended."""
    found = find_guard(home)
    return 0 if found is None else stop_processes([found], _END_GRACE_S)


def require_guard(home: Path) -> None:
    """For those who would otherwise be watched by nobody without a word.

    Raises:
        Unavailable: there is none, or it is stopped.
    """
    found = find_guard(home)
    with suppress(psutil.NoSuchProcess):
        if found is not None and found.status() != psutil.STATUS_STOPPED:
            return
    state = "is not running" if found is None else "was stopped by a signal"
    raise Unavailable(f"the guard of this stack {state}: `foundry up` starts another")
