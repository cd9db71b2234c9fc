import subprocess
import sys
import time
from collections.abc import Iterator
from uuid import uuid4

import psutil
import pytest

from foundry.config import child_environment
from foundry.infra.embedded.processes import (
    find_process,
    is_alive,
    list_stack_processes,
    stop_processes,
)

_IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); time.sleep(60)"
)


def _spawn(stack: str, code: str) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env=child_environment(FOUNDRY_STACK_ID=stack),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


@pytest.fixture
def stubborn() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    stack = str(uuid4())
    with _spawn(stack, _IGNORES_SIGTERM) as child:
        yield stack, child
        child.kill()


def test_a_marked_process_is_found_and_stopped_even_if_it_ignores_sigterm(
    stubborn: tuple[str, subprocess.Popen[bytes]],
) -> None:
    stack, child = stubborn
    found = list_stack_processes(stack)
    assert [process.pid for process in found] == [child.pid]
    began = time.monotonic()
    assert stop_processes(found, grace_s=0.3) == 1
    assert 0.3 <= time.monotonic() - began < 3
    assert child.wait() == -9
    assert list_stack_processes(stack) == []
    assert stop_processes(found, grace_s=0.3) == 0


def test_another_stack_is_left_alone(stubborn: tuple[str, subprocess.Popen[bytes]]) -> None:
    assert list_stack_processes(str(uuid4())) == []
    assert stubborn[1].poll() is None


def test_a_pid_that_was_reused_is_not_the_process(
    stubborn: tuple[str, subprocess.Popen[bytes]],
) -> None:
    child = psutil.Process(stubborn[1].pid)
    assert find_process(child.pid, child.create_time()) == child
    assert find_process(child.pid, child.create_time() - 100) is None


def test_a_zombie_does_not_count() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        process = psutil.Process(child.pid)
        deadline = time.monotonic() + 10
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not is_alive(process)
