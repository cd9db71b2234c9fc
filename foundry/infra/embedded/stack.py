"""`foundry up` and `foundry down`: one stack per FOUNDRY_HOME.

Every step first looks whether its part is there, so `up` finishes what a killed `up` began and
restarts what died, and `down` works on whatever is left. Between the two a guard does what `up`
does whenever a part stays silent.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from foundry.config import LOOPBACK, Settings, environment_of, secret_variables
from foundry.errors import AlreadyRunning, SetupError
from foundry.infra.embedded import postgres, ray
from foundry.infra.embedded.fingerprint import changes, fingerprint
from foundry.infra.embedded.guard import end_guard, start_guard
from foundry.infra.embedded.health import (
    HEALTH_PATHS,
    PartStatus,
    find_supervisor,
    http_status,
    inspect,
)
from foundry.infra.embedded.paths import (
    close_to_others,
    ensure_home,
    ensure_runtime_dir,
    private_files,
    ray_dir,
    runtime_dir,
)
from foundry.infra.embedded.ports import listens, require_free
from foundry.infra.embedded.processes import (
    members,
    process_of,
    stop_all,
)
from foundry.infra.embedded.state import (
    StackState,
    exclusive,
    forget,
    load,
    save,
    stack_id,
    write_private,
)
from foundry.infra.embedded.steps import run_step

_POSTGRES = "postgres"
_BOOTSTRAP_TIMEOUT_S = 300.0
_SERVE_TIMEOUT_S = 600.0
_STOP_GRACE_S = 5.0
_RECOVERY_S, _POLL_S = 15.0, 0.5
_GUARDS_WORK = "the guard of this stack"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StopReport:
    """What `down` found: processes stopped, and whether the home was gone."""

    stopped: int
    home_missing: bool


def up(settings: Settings, progress: Progress) -> StackState:
    """Start what is not running, and again what runs with other code or settings.

    Returns when the HTTP API answers; a guard keeps it so. What runs is stopped only after the
    ports are known to be free and the migrations are applied, and is guarded after a failure too.

    Raises:
        AlreadyRunning: another command works on this home.
        SetupError: a port is taken, or the machine is not ready.
        Unavailable: a part did not start; the message names its log.
    """
    ensure_home(settings.home)
    state = load(settings.home)
    changed = _changes(settings, state)
    if state is not None and not changed and all(p.healthy for p in inspect(settings, state)):
        progress("everything is running already")
        return state
    with _alone(settings.home, "foundry up"), private_files():
        end_guard(settings.home)
        try:
            if state is not None and changed:
                _replace(settings, state, changed, progress)
            started = _complete(settings, progress, migrate=True)
        except BaseException:
            _guard_what_is_left(settings)
            raise
        start_guard(settings.home, _environment(settings, started))
        return started


@contextmanager
def _alone(home: Path, doing: str) -> Iterator[None]:
    """The lock of this home; a guard at a repair gives it up, another command does not."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(home, doing))
        except AlreadyRunning as error:
            if not str(error.details.get("holder")).startswith(_GUARDS_WORK):
                raise
            end_guard(home)
            held.enter_context(exclusive(home, doing))
        yield


def _replace(settings: Settings, state: StackState, changed: list[str], progress: Progress) -> None:
    """Stop what runs, after everything that may fail beside it has succeeded."""
    progress(f"plan: {'; '.join(changed)}")
    progress("plan: migrate, then restart Ray; jobs go on from their last checkpoint")
    _require_changed_ports(settings, state.environment)
    # What still runs may know no password.
    state = _start_postgres(settings, state, progress, keep_rules=True)
    _write_credentials(settings, _bootstrap(settings, state, progress))
    stop_all(_not_postgres(settings.home), _STOP_GRACE_S)


def _guard_what_is_left(settings: Settings) -> None:
    """With the settings that it runs with: under others the guard would take it for silent."""
    if (left := load(settings.home)) is not None:
        start_guard(settings.home, {**_environment(settings, left), **left.environment})


def complete(settings: Settings, progress: Progress) -> StackState:
    """Start what is not running: the guard's way, after an `up` has migrated. Raises too."""
    with exclusive(settings.home, _GUARDS_WORK), private_files():
        return _complete(settings, progress, migrate=False)


def _complete(settings: Settings, progress: Progress, *, migrate: bool) -> StackState:
    state = _begin(settings, load(settings.home), migrate=migrate)
    ensure_runtime_dir(settings.home)
    state, head = _start_ray(settings, state, progress)
    state = _start_postgres(settings, state, progress, keep_rules=not migrate)
    if migrate:
        _write_credentials(settings, _bootstrap(settings, state, progress))
    if head is not None:
        ray.wait_ready(settings, head, lambda waited: progress(f"Ray starts, {waited:.0f} s"))
    _start_serve(settings, state, progress)
    return state


def _changes(settings: Settings, state: StackState | None) -> list[str]:
    """Why the running Ray must be another one, in words."""
    if state is None or settings.ray.address is not None or _ray_head(settings, state) is None:
        return []
    wanted = _fingerprint(settings)
    return changes(state.fingerprint, wanted, settings, state.environment)


def _fingerprint(settings: Settings) -> dict[str, str]:
    token = ray.token_file(settings.home)
    return fingerprint(settings, token.read_bytes() if token.is_file() else b"")


def down(home: Path, progress: Progress) -> StopReport:
    """Stop every process of this home's stack, also when the home itself was deleted.

    Raises:
        AlreadyRunning: an `up` works on this home right now.
    """
    missing = not home.is_dir()
    with nullcontext() if missing else _alone(home, "foundry down"):
        stopped = end_guard(home)
        stopped += _stop_ray(home, progress)
        if postgres.running_pid(home) is not None:
            progress("stopping PostgreSQL")
            stopped += postgres.stop(home)
        stopped += stop_all(members(stack_id(home)), _STOP_GRACE_S)
        _keep_logs(home)
        forget(home)
        shutil.rmtree(runtime_dir(home), ignore_errors=True)
    return StopReport(stopped, missing)


def status(settings: Settings) -> list[PartStatus]:
    return inspect(settings, load(settings.home))


def client_environment(settings: Settings) -> dict[str, str]:
    """Variables with which a user's own shell reaches this stack's Ray."""
    names = (
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "RAY_USAGE_STATS_ENABLED",
    )
    state = load(settings.home)
    ports = state.ports if state is not None else ray.pick_ports(settings)
    found = ray.environment(settings, ports)
    return {"FOUNDRY_HOME": str(settings.home), **{name: found[name] for name in names}}


def _begin(settings: Settings, state: StackState | None, *, migrate: bool) -> StackState:
    """The state to build on: the running Ray's, else a clean one with its ports checked.

    Whoever does not migrate keeps the fingerprint, so that the next `up` sees what has changed.
    """
    if settings.ray.address is not None or _ray_head(settings, state) is not None:
        if state is not None:
            return state
    else:
        stop_all(_not_postgres(settings.home), _STOP_GRACE_S)
        _require_ports(settings)
    if settings.ray.address is None:
        ray.ensure_token(settings.home)
    ports = ray.pick_ports(settings)
    environment = {**environment_of(settings), **ray.environment(settings, ports)}
    secret = secret_variables(settings)
    public = {name: value for name, value in environment.items() if name not in secret}
    known = _fingerprint(settings) if migrate or state is None else state.fingerprint
    return StackState(settings.base_url, ports=ports, environment=public, fingerprint=known)


def _ports(settings: Settings) -> list[tuple[str, int, str]]:
    """Host, port and the setting of each port that a user chooses."""
    return [
        (settings.http.host, settings.http.port, "FOUNDRY_HTTP__PORT"),
        (LOOPBACK, settings.ray.port, "FOUNDRY_RAY__PORT"),
        (
            settings.ray.dashboard_host,
            settings.ray.dashboard_port,
            "FOUNDRY_RAY__DASHBOARD_PORT",
        ),
    ]


def _require_ports(settings: Settings) -> None:
    for host, port, setting in _ports(settings):
        require_free(host, port, setting)


def _require_changed_ports(settings: Settings, running: Mapping[str, str]) -> None:
    """Those that the running stack does not hold itself."""
    own = {running.get(setting) for _, _, setting in _ports(settings)}
    for host, port, setting in _ports(settings):
        if str(port) not in own:
            require_free(host, port, setting)


def _environment(settings: Settings, state: StackState) -> dict[str, str]:
    return {
        **state.environment,
        **environment_of(settings),
        "FOUNDRY_STACK_ID": stack_id(settings.home),
    }


def _ray_head(settings: Settings, state: StackState | None) -> psutil.Process | None:
    if state is None or "ray" not in state.pids:
        return None
    head = process_of(*state.pids["ray"])
    return head if head is not None and listens(LOOPBACK, settings.ray.port) else None


def _start_ray(
    settings: Settings, state: StackState, progress: Progress
) -> tuple[StackState, psutil.Process | None]:
    """Only launches it: PostgreSQL starts meanwhile."""
    if settings.ray.address is not None:
        return state, None
    if (head := _ray_head(settings, state)) is None:
        progress("starting Ray")
        head = ray.start(settings, _environment(settings, state), state.ports)
        state = state.with_process("ray", head.pid, head.create_time())
        save(settings.home, state)
    return state, head


def _start_postgres(
    settings: Settings, state: StackState, progress: Progress, *, keep_rules: bool
) -> StackState:
    if settings.database.url is None:
        progress("starting PostgreSQL")
        environment = _environment(settings, state)
        pid = postgres.start(settings.home, environment, keep_rules=keep_rules)
        state = state.with_process("postgres", pid, psutil.Process(pid).create_time())
    save(settings.home, state)
    return state


def _bootstrap(settings: Settings, state: StackState, progress: Progress) -> str | None:
    """Migrations and the first key. Returns the key if this call made it."""
    progress("applying migrations")
    lines = run_step(
        "foundry.control.bootstrap",
        log=settings.home / "logs" / "bootstrap.log",
        environment=_environment(settings, state),
        timeout_s=_BOOTSTRAP_TIMEOUT_S,
        progress=progress,
    )
    answers = [line for line in lines if line.startswith("{")]
    key: str | None = json.loads(answers[-1])["api_key"] if answers else None
    return key


def _write_credentials(settings: Settings, key: str | None) -> None:
    path = credentials_file(settings.home)
    if key is None:
        with suppress(OSError, ValueError, KeyError):
            key = json.loads(path.read_text())["api_key"]
    if key is not None:
        write_private(path, json.dumps({"url": settings.base_url, "api_key": key}))


def credentials_file(home: Path) -> Path:
    return home / "credentials.json"


def _start_serve(settings: Settings, state: StackState, progress: Progress) -> None:
    urls = [settings.base_url + path for path in HEALTH_PATHS.values()]
    if _supervised(settings) and _answer_soon(settings, urls):
        return
    progress("starting the HTTP applications")
    run_step(
        "serve_apps.start",
        log=settings.home / "logs" / "serve.log",
        environment=_environment(settings, state),
        timeout_s=_SERVE_TIMEOUT_S,
        progress=progress,
    )
    if silent := [url for url in urls if http_status(url) != 200]:
        raise SetupError(
            f"{silent[0]} does not answer although its application started: "
            "see `foundry logs serve`"
        )


def _supervised(settings: Settings) -> bool:
    if settings.ray.address is not None:
        return True
    return find_supervisor(members(stack_id(settings.home))) is not None


def _answer_soon(settings: Settings, urls: list[str]) -> bool:
    """Whether the applications are there already: a start would replace their replicas.

    Those that have just lost their database or a replica get a moment to find another.
    """
    deadline = time.monotonic() + _RECOVERY_S
    while not all(http_status(url) == 200 for url in urls):
        if time.monotonic() >= deadline or not listens(settings.http.host, settings.http.port):
            return False
        time.sleep(_POLL_S)
    return True


def _stop_ray(home: Path, progress: Progress) -> int:
    everything = _not_postgres(home)
    if everything:
        progress("stopping the applications and Ray")
    return stop_all(everything, _STOP_GRACE_S)


def _not_postgres(home: Path) -> list[psutil.Process]:
    found = []
    for process in members(stack_id(home)):
        with suppress(psutil.Error):
            if process.name() != _POSTGRES:
                found.append(process)
    return found


def _keep_logs(home: Path) -> None:
    """Ray's own logs live in the runtime directory; the last session's stay for questions."""
    logs = ray_dir(home) / "session_latest" / "logs"
    kept = home / "logs" / "ray-last"
    if (home / "logs").is_dir() and logs.is_dir():
        shutil.rmtree(kept, ignore_errors=True)
        with suppress(OSError, shutil.Error):
            shutil.copytree(logs.resolve(), kept, ignore=shutil.ignore_patterns("*.sock"))
            close_to_others(kept)
