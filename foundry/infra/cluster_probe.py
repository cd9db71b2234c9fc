"""What a Ray cluster answers callers with and without its token: asked, not believed.

Two doors lead to running code: the control service (GCS, gRPC) and the dashboard (HTTP, where jobs
are submitted). Both read the mode of authentication when they start, each from its own environment,
so nothing but a call tells what holds.
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any

from foundry.errors import SetupError

# For each call. A dashboard on a loaded machine takes seconds over its first answers.
TIMEOUT_S = 20.0
# The smallest call that the service has; it reads the token first, as for every other (measured).
_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_PATH = "/api/jobs/"
_REFUSED = (401, 403)


class Reply(StrEnum):
    """What became of one call."""

    ANSWERED = "answered"
    REFUSED = "refused"
    NONE = "no answer"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes of a node's certificate and key, and of the authority that signs all of them."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it; a name other than localhost may be anybody's."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def ask_control_service(
    address: str, *, token: str | None = None, tls: Tls | None = None, timeout_s: float = TIMEOUT_S
) -> Reply:
    """Call the GCS at host:port.

    Raises:
        SetupError: this is a light install, without Ray's gRPC.
    """
    if find_spec("grpc") is None:
        raise SetupError("this installation has no Ray: run the installer without --light")
    grpc = import_module("grpc")
    with _open_channel(grpc, address, tls) as channel:
        call = channel.unary_unary(_METHOD)
        metadata = [(name.lower(), value) for name, value in _authorization(token).items()]
        try:
            call(b"", timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return _reply_of(grpc, error.code())
    return Reply.ANSWERED


def _open_channel(grpc: Any, address: str, tls: Tls | None) -> Any:
    # A proxy for the web is no way to a cluster.
    options = [("grpc.enable_http_proxy", 0)]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.authority, private_key=tls.key, certificate_chain=tls.certificate
    )
    return grpc.secure_channel(address, credentials, options=options)


def _reply_of(grpc: Any, code: object) -> Reply:
    codes = grpc.StatusCode
    if code in (codes.UNAUTHENTICATED, codes.PERMISSION_DENIED):
        return Reply.REFUSED
    # Servers without the method are not Ray's.
    if code in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED, codes.UNIMPLEMENTED):
        return Reply.NONE
    return Reply.ANSWERED


def ask_dashboard(
    host: str, port: int, *, token: str | None = None, timeout_s: float = TIMEOUT_S
) -> Reply:
    """Ask the dashboard for the cluster's jobs."""
    with closing(HTTPConnection(host, port, timeout=timeout_s)) as connection:
        try:
            connection.request("GET", _PATH, headers=_authorization(token))
            status = connection.getresponse().status
        except (OSError, HTTPException):
            return Reply.NONE
    return Reply.REFUSED if status in _REFUSED else Reply.ANSWERED


def _authorization(token: str | None) -> Mapping[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}
