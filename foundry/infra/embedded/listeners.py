"""What of this stack other machines can reach: every listener, and what it answers strangers.

A listener on loopback is closed to them. One elsewhere must refuse whoever brings no token, which
is tried and not believed: an answer with content, or a protocol that cannot be tried, is exposure.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from importlib.util import find_spec
from ipaddress import ip_address

import psutil

from foundry.config import LOOPBACK
from foundry.infra.embedded.processes import members

_TIMEOUT_S = 5.0
# One path per kind of HTTP server that a stack runs; the others answer 404 to it.
_PATHS = ("/v1/models", "/api/models", "/api/version", "/metrics", "/stats")
_REFUSED = (401, 403)
# Methods that servers of Ray have; unknown ones are answered before the token is looked at.
_METHODS = (
    "/ray.serve.ASGIService/HandleRequestWithRejection",
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ReporterService/GetTraceback",
)
_WHY = {
    "ray::ServeReplica": "Serve binds a replica's gRPC server to every interface, without a "
    "setting for it; Ray's token guards it",
    "haproxy": "FOUNDRY_HTTP__HOST asks for it; API keys guard it",
}


class Verdict(StrEnum):
    """Whether strangers on the network get anything out of a listener."""

    LOOPBACK = "loopback"
    REFUSES = "refuses without token"
    EXPOSED = "EXPOSED"


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening TCP socket; processes that share it appear as the first of them."""

    pid: int
    process: str
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Exposure:
    """A listener and what was found out about it."""

    listener: Listener
    verdict: Verdict
    reason: str


# Whether a listener refuses callers without a token; None: it speaks another protocol.
Probe = Callable[[str, int], bool | None]


def find_listeners(stack_id: str) -> list[Listener]:
    found: dict[tuple[str, int], Listener] = {}
    for process in members(stack_id):
        for listener in _listeners_of(process):
            found.setdefault((listener.address, listener.port), listener)
    return sorted(found.values(), key=lambda item: (item.port, item.address))


def judge(listeners: Iterable[Listener], probes: Iterable[Probe]) -> list[Exposure]:
    known = list(probes)
    return [_judge(listener, known) for listener in listeners]


def _judge(listener: Listener, probes: list[Probe]) -> Exposure:
    address = ip_address(listener.address)
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_loopback:
        return Exposure(listener, Verdict.LOOPBACK, "only processes of this machine reach it")
    target = LOOPBACK if mapped.is_unspecified else str(mapped)
    answers = [probe(target, listener.port) for probe in probes]
    if False in answers:
        return Exposure(listener, Verdict.EXPOSED, "it answered a caller who brought no token")
    if True in answers:
        return Exposure(listener, Verdict.REFUSES, _why(listener.process))
    return Exposure(listener, Verdict.EXPOSED, "it refused nobody: no known protocol answered")


def _why(process: str) -> str:
    reasons = (why for name, why in _WHY.items() if process.startswith(name))
    return next(reasons, "its library or a setting binds it there; a token guards it")


def _listeners_of(process: psutil.Process) -> Iterator[Listener]:
    with suppress(psutil.Error):
        name = process.name()
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                yield Listener(process.pid, name, connection.laddr.ip, connection.laddr.port)


def refuses_http(host: str, port: int) -> bool | None:
    """By a GET of the paths that some server of a stack answers with content."""
    statuses = [status for path in _PATHS if (status := _get(host, port, path)) is not None]
    if any(200 <= status < 300 for status in statuses):
        return False
    return True if any(status in _REFUSED for status in statuses) else None


def _get(host: str, port: int, path: str) -> int | None:
    with closing(HTTPConnection(host, port, timeout=_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None


def refuses_grpc(host: str, port: int) -> bool | None:
    """By an empty call of each method that some server of Ray has."""
    if find_spec("grpc") is None:
        return None
    grpc = import_module("grpc")
    refused: bool | None = None
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in _METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=_TIMEOUT_S)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    refused = True
                elif error.code() is grpc.StatusCode.UNAVAILABLE:
                    return refused
                elif error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    return False
            else:
                return False
    return refused


PROBES: tuple[Probe, ...] = (refuses_http, refuses_grpc)
