"""Which parts of a stack work, seen from outside."""

import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import psutil

from foundry.config import LOOPBACK, Settings
from foundry.infra.embedded import postgres
from foundry.infra.embedded.guard import last_repair, running_guard
from foundry.infra.embedded.ports import listens
from foundry.infra.embedded.processes import members, process_of
from foundry.infra.embedded.state import StackState, stack_id

# How the system shows the actor of `serve_apps.supervisor`: names of processes end at 15 bytes.
_SUPERVISOR = "ray::Supervisor"
_TIMEOUT_S = 5.0
HEALTH_PATHS: Mapping[str, str] = {"gateway": "/v1/health", "control": "/api/health"}


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One part of a stack; pid and port are None where this machine does not own them."""

    part: str
    healthy: bool
    detail: str
    pid: int | None = None
    port: int | None = None


def inspect(settings: Settings, state: StackState | None) -> list[PartStatus]:
    """Parts of this home's stack only: another one's may answer on the very same ports."""
    ray = _ray(settings, state)
    parts = [_postgres(settings), ray]
    if settings.ray.address is None:
        parts.append(_supervisor(settings))
    ours = ray.healthy if settings.ray.address is not None else ray.pid is not None
    parts += [_application(settings, part, ours=ours) for part in HEALTH_PATHS]
    return [*parts, _guard(settings)]


def find_supervisor(processes: Iterable[psutil.Process]) -> psutil.Process | None:
    for process in processes:
        with suppress(psutil.Error):
            if process.name().startswith(_SUPERVISOR):
                return process
    return None


def _supervisor(settings: Settings) -> PartStatus:
    found = find_supervisor(members(stack_id(settings.home)))
    with suppress(psutil.NoSuchProcess):
        if found is not None:
            stopped = found.status() == psutil.STATUS_STOPPED
            detail = "stopped by a signal" if stopped else "runs"
            return PartStatus("supervisor", not stopped, detail, pid=found.pid)
    return PartStatus("supervisor", False, "not running")


def _guard(settings: Settings) -> PartStatus:
    found, repair = running_guard(settings.home), last_repair(settings.home)
    frozen = found is not None and found.status() == psutil.STATUS_STOPPED
    told = "not running" if found is None else "stopped by a signal" if frozen else "watches"
    if repair is not None:
        ago = max(time.time() - repair.at, 0.0)
        told += f"; {ago:.0f} s ago: {repair.reason}: {repair.outcome}"
    healthy = found is not None and not frozen
    return PartStatus("guard", healthy, told, pid=found.pid if found else None)


def _postgres(settings: Settings) -> PartStatus:
    if settings.database.url is not None:
        parts = urlsplit(settings.database.url.get_secret_value())
        host, port = parts.hostname or LOOPBACK, parts.port or 5432
        return PartStatus("postgres", listens(host, port), f"external, {host}:{port}")
    pid = postgres.running_pid(settings.home)
    # A frozen server has a pid and an open socket.
    healthy = pid is not None and postgres.answers(settings.home)
    detail = "embedded, Unix socket" if healthy or pid is None else "takes no queries"
    return PartStatus("postgres", healthy, detail, pid=pid)


def _ray(settings: Settings, state: StackState | None) -> PartStatus:
    if settings.ray.address is not None:
        host, _, port = settings.ray.address.rpartition(":")
        reachable = listens(host, int(port)) if port.isdigit() else False
        return PartStatus("ray", reachable, f"external, {settings.ray.address}")
    port_number = settings.ray.port
    known = state.pids.get("ray") if state is not None else None
    head = process_of(*known) if known is not None else None
    if head is None:
        return PartStatus("ray", False, "not running", port=port_number)
    ready = listens(LOOPBACK, port_number)
    return PartStatus("ray", ready, "local, token on", pid=head.pid, port=port_number)


def _application(settings: Settings, part: str, *, ours: bool) -> PartStatus:
    if not ours:
        return PartStatus(part, False, "not running", port=settings.http.port)
    path = HEALTH_PATHS[part]
    status = http_status(settings.base_url + path)
    detail = "not answering" if status is None else f"GET {path} answers {status}"
    return PartStatus(part, status == 200, detail, port=settings.http.port)


def http_status(url: str) -> int | None:
    """The status of a GET, None if nothing answers within 5 s."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with closing(kind(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
