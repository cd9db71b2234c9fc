"""`foundry up` and `foundry down`: one stack per FOUNDRY_HOME.

Every step first looks whether its part is there, so `up` finishes what a killed `up` began and
restarts what died, and `down` works on whatever is left. Between the two a guard does what `up`
does whenever a part stays silent.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from foundry.config import Settings
from foundry.errors import AlreadyRunning
from foundry.infra.embedded import postgres, ray
from foundry.infra.embedded.guard.lifecycle import end_guard, start_guard
from foundry.infra.embedded.health import PartStatus, inspect_parts
from foundry.infra.embedded.home_lock import lock_home
from foundry.infra.embedded.paths import (
    close_to_others,
    ensure_home,
    ray_dir,
    restrict_new_files,
    runtime_dir,
)
from foundry.infra.embedded.plan import Plan, plan_up
from foundry.infra.embedded.processes import list_stack_processes, stop_processes
from foundry.infra.embedded.starting import (
    STOP_GRACE_S,
    Progress,
    Starter,
    credentials_file,
    environment_for,
    list_all_but_postgres,
    require_ports,
)
from foundry.infra.embedded.state import StackState, forget_state, load_state, stack_id

__all__ = [
    "Plan",
    "StopReport",
    "client_environment",
    "credentials_file",
    "down",
    "plan_up",
    "start_missing_parts",
    "status",
    "up",
]

_GUARDS_WORK = "the guard of this stack"


@dataclass(frozen=True, slots=True)
class StopReport:
    """What `down` found: processes stopped, and whether the home was gone."""

    stopped: int
    home_missing: bool


def up(settings: Settings, progress: Progress, approved: Plan | None = None) -> StackState:
    """Start what is not running, and again what runs with other code or settings.

    Returns when the HTTP API answers; a guard keeps it so. What runs is stopped only after the
    ports are known to be free and the migrations are applied, and is guarded after a failure too.

    Args:
        approved: the plan that a user has agreed to; default: nothing that runs is restarted.

    Raises:
        AlreadyRunning: another command works on this home.
        InvalidRequest: a part must be restarted and `approved` does not name it.
        SetupError: a port is taken, or the machine is not ready.
        Unavailable: a part did not start; the message names its log.
    """
    ensure_home(settings.home)
    state, plan = load_state(settings.home), plan_up(settings)
    if state is not None and plan.is_empty:
        progress("everything is running already")
        return state
    plan.require_approval(approved)
    with _lock_from_guard(settings.home, "foundry up"), restrict_new_files():
        end_guard(settings.home)
        try:
            started = _carry_out(settings, approved, progress)
        except BaseException:
            _guard_what_is_left(settings)
            raise
        start_guard(settings.home, environment_for(settings, started))
        return started


def _carry_out(settings: Settings, approved: Plan | None, progress: Progress) -> StackState:
    # Another command may have worked here since the plan that was agreed to.
    state, plan = load_state(settings.home), plan_up(settings)
    plan.require_approval(approved)
    starter = Starter(settings, progress)
    if state is not None and plan.restarts:
        # Everything that may fail comes before anything is stopped.
        if settings.ray.address is None:
            require_ports(settings, state.environment)
        starter.bootstrap_database(starter.start_postgres(state, keep_rules=True))
        # Of another's cluster nothing bears our mark; a local Ray that it takes the place of does.
        stop_processes(list_all_but_postgres(settings.home), STOP_GRACE_S)
    return starter.start(migrate=True, redeploy=bool(plan.restarts))


@contextmanager
def _lock_from_guard(home: Path, doing: str) -> Iterator[None]:
    """The lock of this home; a guard at a repair gives it up, another command does not."""
    with ExitStack() as held:
        try:
            held.enter_context(lock_home(home, doing))
        except AlreadyRunning as error:
            if not str(error.details.get("holder")).startswith(_GUARDS_WORK):
                raise
            end_guard(home)
            held.enter_context(lock_home(home, doing))
        yield


def _guard_what_is_left(settings: Settings) -> None:
    """With the settings that it runs with: under others the guard would take it for silent."""
    if (left := load_state(settings.home)) is not None:
        start_guard(settings.home, {**environment_for(settings, left), **left.environment})


def start_missing_parts(settings: Settings, progress: Progress) -> StackState:
    """Start what is not running: the guard's way, after an `up` has migrated.

    Raises:
        AlreadyRunning: another command works on this home.
        SetupError: a port is taken, or the machine is not ready.
        Unavailable: a part did not start; the message names its log.
    """
    with lock_home(settings.home, _GUARDS_WORK), restrict_new_files():
        return Starter(settings, progress).start(migrate=False)


def down(home: Path, progress: Progress) -> StopReport:
    """Stop every process of this home's stack, also when the home itself was deleted.

    Raises:
        AlreadyRunning: an `up` works on this home right now.
    """
    missing = not home.is_dir()
    with nullcontext() if missing else _lock_from_guard(home, "foundry down"):
        stopped = end_guard(home)
        stopped += _stop_ray(home, progress)
        if postgres.find_running_pid(home) is not None:
            progress("stopping PostgreSQL")
            stopped += postgres.stop(home)
        stopped += stop_processes(list_stack_processes(stack_id(home)), STOP_GRACE_S)
        _keep_logs(home)
        forget_state(home)
        shutil.rmtree(runtime_dir(home), ignore_errors=True)
    return StopReport(stopped, missing)


def status(settings: Settings) -> list[PartStatus]:
    """Every part of this home's stack as it is now."""
    return inspect_parts(settings, load_state(settings.home))


def client_environment(settings: Settings) -> dict[str, str]:
    """Variables with which a user's own shell reaches this stack's Ray."""
    names = (
        "RAY_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        "RAY_USAGE_STATS_ENABLED",
    )
    state = load_state(settings.home)
    ports = state.ports if state is not None else ray.pick_ports(settings)
    found = ray.environment(settings, ports)
    return {"FOUNDRY_HOME": str(settings.home), **{name: found[name] for name in names}}


def _stop_ray(home: Path, progress: Progress) -> int:
    everything = list_all_but_postgres(home)
    if everything:
        progress("stopping the applications and Ray")
    return stop_processes(everything, STOP_GRACE_S)


def _keep_logs(home: Path) -> None:
    """Ray's own logs live in the runtime directory; the last session's stay for questions."""
    logs = ray_dir(home) / "session_latest" / "logs"
    kept = home / "logs" / "ray-last"
    if (home / "logs").is_dir() and logs.is_dir():
        shutil.rmtree(kept, ignore_errors=True)
        with suppress(OSError, shutil.Error):
            shutil.copytree(logs.resolve(), kept, ignore=shutil.ignore_patterns("*.sock"))
            close_to_others(kept)
