"""How the parts of a stack are started: each step first looks whether its part is there.

state ──> Ray launched ──> PostgreSQL ──> migrations, first key ──> Ray ready ──> applications
          (starts beside it)              (`up` only, not a guard)
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from foundry.config import LOOPBACK, Settings, environment_of, secret_variables
from foundry.errors import SetupError
from foundry.infra.embedded import postgres, ray
from foundry.infra.embedded.health import HEALTH_PATHS, find_supervisor, read_http_status
from foundry.infra.embedded.paths import ensure_runtime_dir, write_private
from foundry.infra.embedded.plan import digest_wanted_stack, find_ray_head
from foundry.infra.embedded.ports import is_free, is_listening, require_free_port
from foundry.infra.embedded.processes import list_stack_processes, stop_processes
from foundry.infra.embedded.stack_digest import version_of
from foundry.infra.embedded.state import StackState, load_state, save_state, stack_id
from foundry.infra.embedded.steps import run_step

# Drivers are asked to checkpoint before; what is left has nothing to write.
STOP_GRACE_S = 5.0
_POSTGRES = "postgres"
# Migrations of a large database, and replicas that import everything on two busy cores.
_BOOTSTRAP_TIMEOUT_S = 300.0
_SERVE_TIMEOUT_S = 600.0
_APPLICATIONS_STEP, _SUPERVISOR_STEP = "serve_apps.start", "serve_apps.start_supervisor"
_REPAIR_GRACE_S = 1.0
# A killed process of many threads and gigabytes is gone after seconds.
_PORTS_S = 10.0
# Serve replaces a replica that died in less; a start would replace all of them.
_ANSWER_AGAIN_S, _POLL_S = 15.0, 0.5

Progress = Callable[[str], None]


class Starter:
    """Starts what is missing in one home."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress

    def start(self, *, migrate: bool, redeploy: bool = False) -> StackState:
        """Start every part that does not run.

        Args:
            migrate: apply migrations and note which code and settings run now; a guard does not,
                so that the next `up` sees what has changed.
            redeploy: replace the applications of another's cluster although they answer.
        """
        settings = self._settings
        state = self._prepare_state(load_state(settings.home), migrate=migrate)
        ensure_runtime_dir(settings.home)
        state, head = self._launch_ray(state)
        # What of an older release still runs may know no password; `up` has ended all of it.
        state = self.start_postgres(state, keep_rules=not migrate)
        if migrate:
            self.bootstrap_database(state)
        if head is not None:
            ray.wait_ready(
                settings, head, lambda waited: self._progress(f"Ray starts, {waited:.0f} s")
            )
        digests = digest_wanted_stack(settings) if migrate else state.digests
        self._start_applications(state, version_of(digests), redeploy=redeploy)
        if migrate and settings.ray.address is not None:
            # Only now: an `up` that failed before has replaced nothing there.
            state = replace(state, digests=digests)
            save_state(settings.home, state)
        return state

    def start_postgres(self, state: StackState, *, keep_rules: bool) -> StackState:
        """Start the embedded server unless the settings name another, and note its process.

        Args:
            keep_rules: of who may log in, as an older release has left them.
        """
        settings = self._settings
        if settings.database.url is None:
            if postgres.find_running_pid(settings.home) is None:
                self._progress("starting PostgreSQL")
            environment = environment_for(settings, state)
            pid = postgres.start(settings.home, environment, keep_rules=keep_rules)
            state = state.with_process("postgres", pid, psutil.Process(pid).create_time())
        save_state(settings.home, state)
        return state

    def bootstrap_database(self, state: StackState) -> None:
        """Apply migrations, and write the first key if this call made it."""
        settings = self._settings
        self._progress("applying migrations")
        lines = run_step(
            "foundry.control.bootstrap",
            log=settings.home / "logs" / "bootstrap.log",
            environment=environment_for(settings, state),
            timeout_s=_BOOTSTRAP_TIMEOUT_S,
            progress=self._progress,
        )
        answers = [line for line in lines if line.startswith("{")]
        key: str | None = json.loads(answers[-1])["api_key"] if answers else None
        self._write_credentials(key)

    def _prepare_state(self, state: StackState | None, *, migrate: bool) -> StackState:
        """The state to build on: the running Ray's, else a clean one with its ports checked."""
        settings = self._settings
        external = settings.ray.address is not None
        runs = external or find_ray_head(settings, state) is not None
        if state is not None and runs and not (external and migrate):
            return state
        if not runs:
            # Without its head nothing of a Ray can end its work: a repair does not wait for it.
            grace_s = STOP_GRACE_S if migrate else _REPAIR_GRACE_S
            stop_processes(list_all_but_postgres(settings.home), grace_s)
            if state is not None:
                _await_ports(settings)
            require_ports(settings)
        if not external:
            ray.ensure_token(settings.home)
        ports = ray.pick_ports(settings)
        environment = {**environment_of(settings), **ray.environment(settings, ports)}
        secret = secret_variables(settings)
        public = {name: value for name, value in environment.items() if name not in secret}
        digests = state.digests if state is not None else {}
        if not external and (migrate or state is None):
            digests = digest_wanted_stack(settings)
        return StackState(settings.base_url, ports=ports, environment=public, digests=digests)

    def _launch_ray(self, state: StackState) -> tuple[StackState, psutil.Process | None]:
        """Only launches it: PostgreSQL starts meanwhile."""
        settings = self._settings
        if settings.ray.address is not None:
            return state, None
        if (head := find_ray_head(settings, state)) is None:
            self._progress("starting Ray")
            head = ray.start(settings, environment_for(settings, state), state.ports)
            state = state.with_process("ray", head.pid, head.create_time())
            save_state(settings.home, state)
        return state, head

    def _write_credentials(self, key: str | None) -> None:
        path = credentials_file(self._settings.home)
        if key is None:
            with suppress(OSError, ValueError, KeyError):
                key = json.loads(path.read_text())["api_key"]
        if key is not None:
            document = {"url": self._settings.base_url, "api_key": key}
            write_private(path, json.dumps(document))

    def _start_applications(self, state: StackState, version: str, *, redeploy: bool) -> None:
        """The gateway, the control API and the supervisor, or only what of them is missing.

        Args:
            version: of the code and settings that `up` has noted, so that a guard's repair does
                not replace what runs by a checkout that has changed since.
        """
        settings = self._settings
        urls = [settings.base_url + path for path in HEALTH_PATHS.values()]
        if not redeploy and self._await_answers(urls):
            if not self._is_supervised():
                self._progress("starting the supervisor")
                self._run_serve_step(_SUPERVISOR_STEP, state, version)
            return
        self._progress("starting the HTTP applications")
        self._run_serve_step(_APPLICATIONS_STEP, state, version)
        if silent := [url for url in urls if read_http_status(url) != 200]:
            raise SetupError(
                f"{silent[0]} does not answer although its application started: "
                "see `foundry logs serve`"
            )

    def _run_serve_step(self, module: str, state: StackState, version: str) -> None:
        run_step(
            module,
            log=self._settings.home / "logs" / "serve.log",
            environment=environment_for(self._settings, state),
            timeout_s=_SERVE_TIMEOUT_S,
            progress=self._progress,
            arguments=(version,),
        )

    def _is_supervised(self) -> bool:
        """Whether a supervisor is there; another's cluster keeps its own."""
        if self._settings.ray.address is not None:
            return True
        return find_supervisor(list_stack_processes(stack_id(self._settings.home))) is not None

    def _await_answers(self, urls: list[str]) -> bool:
        """Whether the applications are there already.

        Those that have just lost their database or a replica get a moment to find another.
        """
        http = self._settings.http
        deadline = time.monotonic() + _ANSWER_AGAIN_S
        while not all(read_http_status(url) == 200 for url in urls):
            if time.monotonic() >= deadline or not is_listening(http.host, http.port):
                return False
            time.sleep(_POLL_S)
        return True


def credentials_file(home: Path) -> Path:
    """Where `up` leaves the address and the administrator's key for the CLI and the SDK."""
    return home / "credentials.json"


def environment_for(settings: Settings, state: StackState) -> dict[str, str]:
    """What a process of the stack runs with, beyond the user's own environment."""
    return {
        **state.environment,
        **environment_of(settings),
        "FOUNDRY_STACK_ID": stack_id(settings.home),
    }


def list_all_but_postgres(home: Path) -> list[psutil.Process]:
    """Processes of the stack that a restart replaces."""
    found = []
    for process in list_stack_processes(stack_id(home)):
        with suppress(psutil.Error):
            if process.name() != _POSTGRES:
                found.append(process)
    return found


def require_ports(settings: Settings, running: Mapping[str, str] | None = None) -> None:
    """Refuse ports that somebody else has.

    Args:
        running: environment of the running stack, which holds its own ports itself.

    Raises:
        SetupError: a port is taken; the message names who has it and the setting to change.
    """
    wanted = list_chosen_ports(settings)
    own = {(running or {}).get(setting) for _, _, setting in wanted}
    for host, port, setting in wanted:
        if str(port) not in own:
            require_free_port(host, port, setting)


def list_chosen_ports(settings: Settings) -> list[tuple[str, int, str]]:
    """Host, port and the setting of each port that a user chooses for this machine."""
    http, ray = settings.http, settings.ray
    chosen = [(http.host, http.port, "FOUNDRY_HTTP__PORT")]
    if ray.address is None:
        chosen += [
            (LOOPBACK, ray.port, "FOUNDRY_RAY__PORT"),
            (ray.dashboard_host, ray.dashboard_port, "FOUNDRY_RAY__DASHBOARD_PORT"),
        ]
    return chosen


def _await_ports(settings: Settings) -> None:
    """Give what was killed a moment to let go of its ports.

    A process of several threads is a zombie once its first one has ended; the others may still
    hold its sockets.
    """
    deadline = time.monotonic() + _PORTS_S
    while time.monotonic() < deadline and not all(
        is_free(host, port) for host, port, _ in list_chosen_ports(settings)
    ):
        time.sleep(_POLL_S)
