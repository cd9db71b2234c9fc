"""Which parts of a stack work, seen from outside: the one judgement of `status`, `up` and guard."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import psutil

from foundry.config import LOOPBACK, Settings
from foundry.infra.embedded import postgres
from foundry.infra.embedded.guard.lifecycle import pick_guard
from foundry.infra.embedded.guard.repairs import read_last_repair
from foundry.infra.embedded.heartbeat import Heartbeat, read_heartbeat
from foundry.infra.embedded.ports import is_listening
from foundry.infra.embedded.processes import find_process, list_stack_processes
from foundry.infra.embedded.state import StackState, stack_id

# How the system shows the actor of `serve_apps.supervisor`: names of processes end at 15 bytes.
_SUPERVISOR = "ray::Supervisor"
_TIMEOUT_S = 5.0
# Its process imports Ray and every slice, half a minute on two loaded cores; only then can it say
# that it lives.
_SUPERVISOR_START_S = 120.0
HEALTH_PATHS: Mapping[str, str] = {"gateway": "/v1/health", "control": "/api/health"}

# The status of an application's health, by its URL; None: it does not answer.
Probe = Callable[[str], int | None]


class Condition(StrEnum):
    """How a part is.

    gone: there is no process, or nothing listens. starting: it is not expected to work yet.
    recovering: it refuses callers until it has replayed its log. silent: it is there and does not
    answer. stuck: its process lives and its work does not go on. frozen: a signal stopped it.
    """

    HEALTHY = "healthy"
    STARTING = "starting"
    RECOVERING = "recovering"
    GONE = "gone"
    SILENT = "silent"
    STUCK = "stuck"
    FROZEN = "frozen"


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part of a stack; pid and port are None where this machine does not own them.

    Attributes:
        external: somebody else runs it.
    """

    part: str
    condition: Condition
    detail: str
    pid: int | None = None
    port: int | None = None
    external: bool = False

    @property
    def healthy(self) -> bool:
        """Whether it works, or has begun to and is still in time."""
        return self.condition in (Condition.HEALTHY, Condition.STARTING)


def inspect_parts(
    settings: Settings, state: StackState | None, probe: Probe | None = None
) -> list[PartStatus]:
    """Parts of this home's stack only: another one's may answer on the very same ports.

    Args:
        probe: asks an application's health by its URL; default: with a GET.
    """
    probe = probe or read_http_status
    processes = list_stack_processes(stack_id(settings.home))
    ray = _inspect_ray(settings, state)
    parts = [_inspect_postgres(settings), ray]
    if settings.ray.address is None:
        parts.append(_inspect_supervisor(settings, processes))
    ours = ray.healthy if settings.ray.address is not None else ray.pid is not None
    with ThreadPoolExecutor(len(HEALTH_PATHS)) as pool:
        # At once: one that hangs takes its whole deadline.
        ask = partial(_inspect_application, settings, probe=probe, ours=ours)
        parts += pool.map(ask, HEALTH_PATHS)
    return [*parts, _inspect_guard(settings, processes)]


def find_supervisor(processes: Iterable[psutil.Process]) -> psutil.Process | None:
    """The supervisor's actor among the processes of a stack."""
    for process in processes:
        with suppress(psutil.Error):
            if process.name().startswith(_SUPERVISOR):
                return process
    return None


def _inspect_supervisor(settings: Settings, processes: list[psutil.Process]) -> PartStatus:
    found = find_supervisor(processes)
    with suppress(psutil.NoSuchProcess):
        if found is not None:
            condition, detail = _judge_supervisor(found, read_heartbeat(settings.home))
            return PartStatus("supervisor", condition, detail, pid=found.pid)
    return PartStatus("supervisor", Condition.GONE, "not running")


def _judge_supervisor(process: psutil.Process, beat: Heartbeat | None) -> tuple[Condition, str]:
    if process.status() == psutil.STATUS_STOPPED:
        return Condition.FROZEN, "stopped by a signal"
    if beat is None or beat.pid != process.pid:
        age_s = time.time() - process.create_time()
        if age_s < _SUPERVISOR_START_S:
            return Condition.STARTING, "starting"
        return Condition.STUCK, f"started {age_s:.0f} s ago and has not begun to work"
    silent_s = time.monotonic() - beat.at
    if silent_s > beat.due_s:
        return Condition.STUCK, f"its loop has not turned for {silent_s:.0f} s"
    if beat.stuck:
        return Condition.STUCK, f"does not get on with {', '.join(beat.stuck)}"
    return Condition.HEALTHY, "acts" if beat.acts else "waits for its lease"


def _inspect_guard(settings: Settings, processes: list[psutil.Process]) -> PartStatus:
    found, repair = pick_guard(processes), read_last_repair(settings.home)
    condition, told = Condition.GONE, "not running"
    with suppress(psutil.NoSuchProcess):
        if found is not None:
            frozen = found.status() == psutil.STATUS_STOPPED
            condition = Condition.FROZEN if frozen else Condition.HEALTHY
            told = "stopped by a signal: `foundry up` replaces it" if frozen else "watches"
    if repair is not None:
        ago = max(time.time() - repair.at, 0.0)
        told += f"; {ago:.0f} s ago: {repair.reason}: {repair.outcome}"
    return PartStatus("guard", condition, told, pid=found.pid if found else None)


def _inspect_postgres(settings: Settings) -> PartStatus:
    if settings.database.url is not None:
        parts = urlsplit(settings.database.url.get_secret_value())
        host, port = parts.hostname or LOOPBACK, parts.port or 5432
        found = _condition_of(is_listening(host, port))
        return PartStatus("postgres", found, f"external, {host}:{port}", external=True)
    pid = postgres.find_running_pid(settings.home)
    if pid is None:
        return PartStatus("postgres", Condition.GONE, "not running")
    # A frozen server has a pid and an open socket.
    condition, detail = {
        postgres.Reply.ACCEPTS: (Condition.HEALTHY, "embedded, Unix socket"),
        postgres.Reply.REJECTS: (Condition.RECOVERING, "refuses callers until it has recovered"),
        postgres.Reply.SILENT: (Condition.SILENT, "it runs and does not answer"),
    }[postgres.probe_server(settings.home)]
    return PartStatus("postgres", condition, detail, pid=pid)


def _inspect_ray(settings: Settings, state: StackState | None) -> PartStatus:
    if settings.ray.address is not None:
        host, _, port = settings.ray.address.rpartition(":")
        found = _condition_of(port.isdigit() and is_listening(host, int(port)))
        return PartStatus("ray", found, f"external, {settings.ray.address}", external=True)
    port_number = settings.ray.port if state is None else state.ray_port(settings)
    known = state.pids.get("ray") if state is not None else None
    head = find_process(*known) if known is not None else None
    if head is None:
        return PartStatus("ray", Condition.GONE, "not running", port=port_number)
    heard = _condition_of(is_listening(LOOPBACK, port_number))
    detail = "local, token on" if heard is Condition.HEALTHY else "its control service is silent"
    return PartStatus("ray", heard, detail, pid=head.pid, port=port_number)


def _condition_of(answers: bool) -> Condition:
    return Condition.HEALTHY if answers else Condition.SILENT


def _inspect_application(settings: Settings, part: str, *, probe: Probe, ours: bool) -> PartStatus:
    http = settings.http
    path = HEALTH_PATHS[part]
    status = probe(settings.base_url + path) if ours else None
    if not ours or (status is None and not is_listening(http.host, http.port)):
        return PartStatus(part, Condition.GONE, "not running", port=http.port)
    detail = "not answering" if status is None else f"GET {path} answers {status}"
    return PartStatus(part, _condition_of(status == 200), detail, port=http.port)


def read_http_status(url: str) -> int | None:
    """The status of a GET, None if nothing answers within 5 s."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with closing(kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
