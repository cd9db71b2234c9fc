"""Processes of a stack: found by marker, stopped politely, then firmly."""

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

_MARKER = "FOUNDRY_STACK_ID"
_POLL_S = 0.05


def is_alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie holds no port, file or memory and does not count."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def find_process(pid: int, created: float) -> psutil.Process | None:
    """The process that had this pid at that time (seconds since the epoch), if it still runs."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 1.0
    except psutil.NoSuchProcess:
        return None
    return process if same and is_alive(process) else None


def wait_until_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until none is alive. Returns those that still are."""
    left = list(processes)
    deadline = time.monotonic() + timeout_s
    while left := [process for process in left if is_alive(process)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    return left


def stop_processes(processes: Iterable[psutil.Process], grace_s: float) -> int:
    """SIGTERM, wait, SIGKILL. Returns how many were alive."""
    targets = [process for process in processes if is_alive(process)]
    for process in targets:
        with suppress(psutil.Error):
            process.terminate()
    for process in wait_until_gone(targets, grace_s):
        with suppress(psutil.Error):
            process.kill()
    wait_until_gone(targets, grace_s)
    return len(targets)


def list_stack_processes(stack_id: str) -> list[psutil.Process]:
    """Every process of a stack, whoever its parent is by now: its environment names the stack."""
    own = psutil.Process()
    spared = {own.pid, *(parent.pid for parent in own.parents())}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in spared and _belongs(process, stack_id)
    ]


def _belongs(process: psutil.Process, stack_id: str) -> bool:
    with suppress(psutil.Error, OSError):
        return process.environ().get(_MARKER) == stack_id and is_alive(process)
    return False
