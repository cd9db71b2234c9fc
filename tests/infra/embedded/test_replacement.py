"""What `up` does to a running stack when it cannot start the new one; nothing is started here."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from foundry.config import HttpSettings, RaySettings, Settings, environment_of
from foundry.errors import AlreadyRunning, SetupError, Unavailable
from foundry.infra.embedded import postgres, stack
from foundry.infra.embedded.paths import ensure_home, ensure_runtime_dir, runtime_dir
from foundry.infra.embedded.ports import free_ports
from foundry.infra.embedded.state import StackState, exclusive, load, save

_OLD = {"code": "old", "settings": "old"}


@dataclass
class _Running:
    """A stack whose Ray head is this process; `did` is what `up` does to it."""

    settings: Settings
    did: list[str] = field(default_factory=list)
    guards: list[Mapping[str, str]] = field(default_factory=list)

    def changed(self, port: int) -> Settings:
        return self.settings.model_copy(update={"http": HttpSettings(port=port)})

    def start_postgres(
        self, home: Path, environment: Mapping[str, str], *, keep_rules: bool
    ) -> int:
        # Processes of the running stack may be of a release that knew no passwords.
        assert keep_rules
        self.did.append("postgres")
        return os.getpid()

    def run_step(
        self,
        module: str,
        *,
        log: Path,
        environment: Mapping[str, str],
        timeout_s: float,
        progress: Callable[[str], None],
    ) -> list[str]:
        self.did.append(module)
        raise Unavailable("the migration failed")

    def stop_all(self, processes: object, grace_s: float) -> int:
        self.did.append("stop")
        return 0

    def start_guard(self, home: Path, environment: Mapping[str, str]) -> None:
        self.did.append("guard")
        self.guards.append(environment)

    def end_guard(self, home: Path) -> int:
        self.did.append("end guard")
        return 1


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Running]:
    home = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    ensure_home(home)
    ensure_runtime_dir(home)
    with socket.create_server(("127.0.0.1", 0)) as head:
        ports = free_ports(str(home))
        settings = Settings(
            home=home,
            http=HttpSettings(port=next(ports)),
            ray=RaySettings(port=head.getsockname()[1], dashboard_port=next(ports)),
        )
        found = _Running(settings)
        own = psutil.Process()
        state = StackState(
            settings.base_url, environment=environment_of(settings), fingerprint=_OLD
        )
        save(home, state.with_process("ray", own.pid, own.create_time()))
        monkeypatch.setattr(postgres, "start", found.start_postgres)
        for name in ("run_step", "stop_all", "start_guard", "end_guard"):
            monkeypatch.setattr(stack, name, getattr(found, name))
        yield found
    shutil.rmtree(home)
    shutil.rmtree(runtime_dir(home), ignore_errors=True)


def _up(settings: Settings) -> None:
    stack.up(settings, lambda text: None)


def test_a_taken_port_stops_nothing_and_leaves_a_guard(running: _Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SetupError, match=f"port {port} is taken"):
            _up(running.changed(port))
    assert running.did == ["end guard", "guard"]
    # Under the new port the guard would take the running stack for silent.
    (environment,) = running.guards
    assert environment["FOUNDRY_HTTP__PORT"] == str(running.settings.http.port)


def test_a_failed_migration_stops_nothing_and_is_tried_again(running: _Running) -> None:
    settings = running.changed(next(free_ports("another")))
    for _ in range(2):
        with pytest.raises(Unavailable, match="the migration failed"):
            _up(settings)
    assert running.did == ["end guard", "postgres", "foundry.control.bootstrap", "guard"] * 2
    state = load(settings.home)
    assert state is not None
    assert state.fingerprint == _OLD


def test_another_command_keeps_its_guard(running: _Running) -> None:
    with exclusive(running.settings.home, "foundry up"), pytest.raises(AlreadyRunning):
        _up(running.settings)
    with exclusive(running.settings.home, "foundry up"), pytest.raises(AlreadyRunning):
        stack.down(running.settings.home, lambda text: None)
    assert running.did == []


def test_a_guard_at_a_repair_gives_way(running: _Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as repair:
        repair.enter_context(exclusive(running.settings.home, stack._GUARDS_WORK))

        def end_guard(home: Path) -> int:
            repair.close()
            return running.end_guard(home)

        monkeypatch.setattr(stack, "end_guard", end_guard)
        with pytest.raises(Unavailable, match="the migration failed"):
            _up(running.settings)
    assert running.did[:3] == ["end guard", "end guard", "postgres"]


@pytest.mark.parametrize("migrate", [False, True])
def test_only_who_migrates_notes_what_the_code_is_now(running: _Running, migrate: bool) -> None:
    state = StackState(running.settings.base_url, fingerprint=_OLD)
    # Its head is gone: the socket that stands for it is another's to a stack that begins.
    ports = free_ports("begin")
    settings = running.settings.model_copy(update={"ray": RaySettings(port=next(ports))})
    begun = stack._begin(settings, state, migrate=migrate)
    wanted = stack._fingerprint(settings) if migrate else _OLD
    assert begun.fingerprint == wanted
    assert stack._fingerprint(settings) != _OLD
