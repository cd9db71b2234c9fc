"""TCP ports of a stack: the user's are checked, Ray's many are picked so that stacks coexist."""

import hashlib
import socket
from collections.abc import Iterator
from contextlib import closing, suppress

import psutil

from foundry.errors import SetupError

_FIRST, _COUNT = 20000, 9000
_CONNECT_TIMEOUT_S = 1.0


def require_free_port(host: str, port: int, setting: str) -> None:
    """Refuse a port that something listens on.

    Args:
        setting: the variable that chooses the port, for the message.

    Raises:
        SetupError: it names the process that has the port, and a free one.
    """
    if is_free(host, port):
        return
    raise SetupError(
        f"port {port} is taken{describe_holder(port)}: stop that program, "
        f"or choose another port with {setting}={next(find_free_ports(f'{host}:{port}'))}"
    )


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # Connections of a stopped server linger; they do not keep a new one from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def is_listening(host: str, port: int) -> bool:
    """Whether a connection is taken within a second; a frozen server's is, by its kernel."""
    with suppress(OSError), closing(socket.create_connection((host, port), _CONNECT_TIMEOUT_S)):
        return True
    return False


def find_free_ports(seed: str) -> Iterator[int]:
    """Ports free on every interface, below the range that outgoing connections use.

    The order depends on `seed`, so that two stacks starting at once rarely want the same ones.
    """
    start = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4])
    for step in range(_COUNT):
        port = _FIRST + (start + step) % _COUNT
        if is_free("0.0.0.0", port):
            yield port
    raise SetupError(f"no free TCP port between {_FIRST} and {_FIRST + _COUNT}")


def describe_holder(port: int) -> str:
    """` by NAME (pid N)`, for whoever reads that a port is taken; empty: it cannot be told."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.pid
            if listening and connection.laddr and connection.laddr[1] == port:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""
