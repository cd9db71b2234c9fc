"""What `up` does to a running stack when it cannot start the new one; nothing is started here."""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from foundry.config import HttpSettings, RaySettings, Settings, environment_of
from foundry.errors import AlreadyRunning, InvalidRequest, SetupError, Unavailable
from foundry.infra.embedded import health, plan, postgres, ray, stack, starting
from foundry.infra.embedded.health import Condition, PartStatus
from foundry.infra.embedded.home_lock import lock_home
from foundry.infra.embedded.paths import ensure_home, ensure_runtime_dir, runtime_dir
from foundry.infra.embedded.plan import Plan, digest_wanted_stack
from foundry.infra.embedded.ports import find_free_ports
from foundry.infra.embedded.stack_digest import version_of
from foundry.infra.embedded.starting import Starter
from foundry.infra.embedded.state import StackState, load_state, save_state

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
        self.did.append("postgres, old rules" if keep_rules else "postgres")
        return os.getpid()

    def run_step(
        self,
        module: str,
        *,
        log: Path,
        environment: Mapping[str, str],
        timeout_s: float,
        progress: Callable[[str], None],
        arguments: Sequence[str] = (),
    ) -> list[str]:
        self.did.append(module)
        raise Unavailable("the migration failed")

    def stop_processes(self, processes: object, grace_s: float) -> int:
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
        ports = find_free_ports(str(home))
        settings = Settings(
            home=home,
            http=HttpSettings(port=next(ports)),
            ray=RaySettings(port=head.getsockname()[1], dashboard_port=next(ports)),
        )
        found = _Running(settings)
        own = psutil.Process()
        state = StackState(settings.base_url, environment=environment_of(settings), digests=_OLD)
        save_state(home, state.with_process("ray", own.pid, own.create_time()))
        monkeypatch.setattr(postgres, "start", found.start_postgres)
        monkeypatch.setattr(health, "read_http_status", lambda url: None)
        for module, name in (
            (starting, "run_step"),
            (starting, "stop_processes"),
            (stack, "stop_processes"),
            (stack, "start_guard"),
            (stack, "end_guard"),
        ):
            monkeypatch.setattr(module, name, getattr(found, name))
        yield found
    shutil.rmtree(home)
    shutil.rmtree(runtime_dir(home), ignore_errors=True)


def _up(settings: Settings) -> None:
    stack.up(settings, lambda text: None, stack.plan_up(settings))


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
    settings = running.changed(next(find_free_ports("another")))
    for _ in range(2):
        with pytest.raises(Unavailable, match="the migration failed"):
            _up(settings)
    assert (
        running.did
        == [
            "end guard",
            "postgres, old rules",
            "foundry.control.bootstrap",
            "guard",
        ]
        * 2
    )
    state = load_state(settings.home)
    assert state is not None
    assert state.digests == _OLD


def test_another_command_keeps_its_guard(running: _Running) -> None:
    with lock_home(running.settings.home, "foundry up"), pytest.raises(AlreadyRunning):
        _up(running.settings)
    with lock_home(running.settings.home, "foundry up"), pytest.raises(AlreadyRunning):
        stack.down(running.settings.home, lambda text: None)
    assert running.did == []


def test_a_guard_at_a_repair_gives_way(running: _Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as repair:
        repair.enter_context(lock_home(running.settings.home, stack._GUARDS_WORK))

        def end_guard(home: Path) -> int:
            repair.close()
            return running.end_guard(home)

        monkeypatch.setattr(stack, "end_guard", end_guard)
        with pytest.raises(Unavailable, match="the migration failed"):
            _up(running.settings)
    assert running.did[:3] == ["end guard", "end guard", "postgres, old rules"]


def test_nothing_is_restarted_that_nobody_has_agreed_to(running: _Running) -> None:
    with pytest.raises(InvalidRequest) as caught:
        stack.up(running.settings, lambda text: None)
    assert caught.value.message == (
        "this checkout has changed; changed settings: a secret: "
        "ray, supervisor, gateway, control must be restarted. "
        "`foundry up --yes` does it, `foundry up --plan` shows what that interrupts"
    )
    assert running.did == []


def test_another_port_for_ray_is_a_restart_and_asked_for(running: _Running) -> None:
    """Nothing listens there yet; the running one must not pass for dead and be swept away."""
    state = load_state(running.settings.home)
    assert state is not None
    save_state(running.settings.home, replace(state, digests=digest_wanted_stack(running.settings)))
    ray_settings = running.settings.ray.model_copy(update={"port": next(find_free_ports("x"))})
    settings = running.settings.model_copy(update={"ray": ray_settings})
    assert stack.plan_up(settings).changes == ("changed settings: FOUNDRY_RAY__PORT",)
    with pytest.raises(InvalidRequest, match="ray, supervisor, gateway, control must be restarted"):
        stack.up(settings, lambda text: None)
    assert running.did == []


def test_a_frozen_guard_is_replaced_without_a_question(
    running: _Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def run_step(module: str, **_: object) -> list[str]:
        steps.append(module)
        return []

    state = load_state(running.settings.home)
    assert state is not None
    save_state(running.settings.home, replace(state, digests=digest_wanted_stack(running.settings)))
    parts = [
        *(PartStatus(part, Condition.HEALTHY, "") for part in ("ray", "gateway", "control")),
        PartStatus("guard", Condition.FROZEN, "stopped by a signal"),
    ]
    monkeypatch.setattr(plan, "inspect_parts", lambda settings, state: parts)
    monkeypatch.setattr(starting, "run_step", run_step)
    monkeypatch.setattr(starting, "read_http_status", lambda url: 200)
    monkeypatch.setattr(starting, "find_supervisor", lambda processes: psutil.Process())
    monkeypatch.setattr(ray, "wait_ready", lambda settings, head, tick: None)
    assert stack.plan_up(running.settings) == Plan(starts=("guard",))
    stack.up(running.settings, lambda text: None)
    assert running.did == ["end guard", "postgres", "guard"]
    assert steps == ["foundry.control.bootstrap"]


def test_a_change_after_the_agreement_is_refused_and_the_stack_guarded_again(
    running: _Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan that was agreed to started parts only; meanwhile somebody has changed the code."""
    plans = [Plan(starts=("guard",)), Plan(("this checkout has changed",), restarts=("ray",))]
    monkeypatch.setattr(stack, "plan_up", lambda settings: plans.pop(0))
    with pytest.raises(InvalidRequest, match="ray must be restarted"):
        stack.up(running.settings, lambda text: None, Plan(starts=("guard",)))
    assert running.did == ["end guard", "guard"]


@pytest.mark.parametrize("migrate", [False, True])
def test_only_who_migrates_notes_what_the_code_is_now(running: _Running, migrate: bool) -> None:
    state = StackState(running.settings.base_url, digests=_OLD)
    # Its head is gone: the socket that stands for it is another's to a stack that begins.
    ports = find_free_ports("begin")
    settings = running.settings.model_copy(update={"ray": RaySettings(port=next(ports))})
    begun = Starter(settings, lambda text: None)._prepare_state(state, migrate=migrate)
    wanted = digest_wanted_stack(settings) if migrate else _OLD
    assert begun.digests == wanted
    assert digest_wanted_stack(settings) != _OLD


@dataclass
class _Cluster:
    """Applications on a Ray that somebody else runs; `steps` are what `up` runs against it."""

    settings: Settings
    answers: bool = True
    steps: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)

    def run_step(
        self,
        module: str,
        *,
        log: Path,
        environment: Mapping[str, str],
        timeout_s: float,
        progress: Callable[[str], None],
        arguments: Sequence[str] = (),
    ) -> list[str]:
        self.steps.append((module, tuple(arguments)))
        self.environments.append(environment)
        self.answers = self.answers or module == "serve_apps.start"
        return ['{"api_key": null}']

    def read_http_status(self, url: str) -> int | None:
        return 200 if self.answers else None

    def version(self) -> str:
        return version_of(digest_wanted_stack(self.settings))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Cluster]:
    home = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    ensure_home(home)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/etc/foundry/ray-token")
    with socket.create_server(("127.0.0.1", 0)) as gcs:
        settings = Settings.model_validate(
            {
                "home": home,
                "ray": {"address": f"127.0.0.1:{gcs.getsockname()[1]}"},
                "database": {"url": "postgresql+asyncpg://foundry_app@127.0.0.1:1/foundry"},
            }
        )
        found = _Cluster(settings)
        monkeypatch.setattr(starting, "run_step", found.run_step)
        monkeypatch.setattr(starting, "read_http_status", found.read_http_status)
        monkeypatch.setattr(health, "read_http_status", found.read_http_status)
        monkeypatch.setattr(stack, "start_guard", lambda home, environment: None)
        monkeypatch.setattr(stack, "end_guard", lambda home: 0)
        yield found
    shutil.rmtree(home)
    shutil.rmtree(runtime_dir(home), ignore_errors=True)


def test_a_changed_checkout_is_migrated_and_deployed_to_another_ones_ray(cluster: _Cluster) -> None:
    cluster.answers = False
    _up(cluster.settings)
    first = [("foundry.control.bootstrap", ()), ("serve_apps.start", (cluster.version(),))]
    assert cluster.steps == first
    noted = load_state(cluster.settings.home)
    assert noted is not None
    assert noted.digests == digest_wanted_stack(cluster.settings)
    # The user's own token, not one of this home that the cluster has never seen.
    assert cluster.environments[0]["RAY_AUTH_TOKEN_PATH"] == "/etc/foundry/ray-token"

    save_state(cluster.settings.home, replace(noted, digests={**noted.digests, "code": "old"}))
    seen = stack.plan_up(cluster.settings)
    assert seen.changes == ("this checkout has changed",)
    assert seen.restarts == ("supervisor", "gateway", "control")
    with pytest.raises(InvalidRequest, match="supervisor, gateway, control must be restarted"):
        stack.up(cluster.settings, lambda text: None)
    assert cluster.steps == first
    _up(cluster.settings)
    bootstrap, start = first
    # Migrated before anything is replaced, and again where every `up` does.
    assert cluster.steps == [*first, bootstrap, bootstrap, start]
    assert load_state(cluster.settings.home) == noted


def test_a_redeployment_that_fails_is_due_again(
    cluster: _Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: str, **_: object) -> list[str]:
        if module == "serve_apps.start":
            raise Unavailable("the cluster is full")
        return []

    save_state(cluster.settings.home, StackState(cluster.settings.base_url, digests=_OLD))
    monkeypatch.setattr(starting, "run_step", fail)
    with pytest.raises(Unavailable, match="the cluster is full"):
        _up(cluster.settings)
    state = load_state(cluster.settings.home)
    assert state is not None
    assert state.digests == _OLD


def test_applications_that_somebody_else_has_started_are_not_replaced_unasked(
    cluster: _Cluster,
) -> None:
    seen = stack.plan_up(cluster.settings)
    assert seen.restarts == ("supervisor", "gateway", "control")
    assert seen.changes == (
        "what the applications of that cluster were started with is not known here",
    )
    assert seen.cost == "requests in flight end first; engines and jobs go on"


def test_a_guard_brings_back_the_supervisor_alone_and_as_it_was(
    running: _Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkout has changed since; whatever answers keeps running what it runs."""
    steps: list[tuple[str, tuple[str, ...]]] = []

    def run_step(module: str, *, arguments: Sequence[str] = (), **_: object) -> list[str]:
        steps.append((module, tuple(arguments)))
        return []

    monkeypatch.setattr(starting, "run_step", run_step)
    monkeypatch.setattr(starting, "read_http_status", lambda url: 200)
    monkeypatch.setattr(ray, "wait_ready", lambda settings, head, tick: None)
    stack.start_missing_parts(running.settings, lambda text: None)
    assert steps == [("serve_apps.start_supervisor", (version_of(_OLD),))]
    assert version_of(_OLD) != version_of(digest_wanted_stack(running.settings))
