"""Which parts of a stack work, seen from outside."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from foundry.config import Settings
from foundry.infra.embedded import postgres
from foundry.infra.embedded.ports import listens
from foundry.infra.embedded.processes import process_of
from foundry.infra.embedded.state import StackState

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
    return [
        _postgres(settings),
        _ray(settings, state),
        *(_application(settings, part) for part in HEALTH_PATHS),
    ]


def _postgres(settings: Settings) -> PartStatus:
    if settings.database.url is not None:
        parts = urlsplit(settings.database.url.get_secret_value())
        host, port = parts.hostname or "127.0.0.1", parts.port or 5432
        return PartStatus("postgres", listens(host, port), f"external, {host}:{port}")
    pid = postgres.running_pid(settings.home)
    return PartStatus("postgres", pid is not None, "embedded, Unix socket", pid=pid)


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
    ready = listens("127.0.0.1", port_number)
    return PartStatus("ray", ready, "local, token on", pid=head.pid, port=port_number)


def _application(settings: Settings, part: str) -> PartStatus:
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
