"""Processes of a stack: found by marker, stopped politely, then firmly."""

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

_MARKER = "FOUNDRY_STACK_ID"
_POLL_S = 0.05


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie holds no port, file or memory and does not count."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def process_of(pid: int, created: float) -> psutil.Process | None:
    """The process that had this pid at that time (seconds since the epoch), if it still runs."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0
    except psutil.NoSuchProcess:
        return None
    return process if same and alive(process) else None


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until none is alive. Returns those that still are."""
    left = list(processes)
    deadline = time.monotonic() + timeout_s
    while left := [process for process in left if alive(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    return left


def stop_all(processes: Iterable[psutil.Process], grace_s: float) -> int:
    """SIGTERM, wait, SIGKILL. Returns how many were alive."""
    targets = [process for process in processes if alive(process)]
    for process in targets:
        with suppress(psutil.Error):
            process.terminate()
    for process in wait_gone(targets, grace_s):
        with suppress(psutil.Error):
            process.kill()
    wait_gone(targets, grace_s)
    return len(targets)


def with_descendants(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with suppress(psutil.Error):
            found |= {process.pid: process for process in (root, *root.children(recursive=True))}
    return list(found.values())


def members(stack_id: str, runtime: Path) -> list[psutil.Process]:
    """Every process of a stack, whoever its parent is by now.

    A process belongs if its environment names the stack, or its command line or an open file lies
    in the stack's runtime directory: some Ray workers overwrite their environment with a title.
    """
    own = psutil.Process()
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in spared and _belongs(process, stack_id, runtime)
    ]


def _belongs(process: psutil.Process, stack_id: str, runtime: Path) -> bool:
    with suppress(psutil.Error, OSError):
        if stack_id and process.environ().get(_MARKER) == stack_id:
            return alive(process)
    with suppress(psutil.Error, OSError):
        if any(_inside(word, runtime) for word in process.cmdline()):
            return alive(process)
    with suppress(psutil.Error, OSError):
        return any(_inside(file.path, runtime) for file in process.open_files())
    return False


def _inside(text: str, folder: Path) -> bool:
    return f"{folder}/" in f"{text}/"
