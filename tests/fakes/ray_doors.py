"""A control service and a dashboard that ask for a token, or answer everybody."""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from foundry.infra.cluster_probe import Tls

TOKEN = "0123456789abcdef" * 4
_METHOD = "/ray.rpc.NodeInfoGcsService/CheckAlive"


@contextmanager
def control_service(
    token: str | None = None, tls: Tls | None = None, method: str = _METHOD
) -> Iterator[str]:
    """Its host:port. It refuses as Ray does: UNAUTHENTICATED, for a missing and a wrong token.

    Args:
        token: None: it answers everybody.
        tls: None: it speaks in the clear. Otherwise it asks clients for a certificate.
        method: the only one that it has.
    """
    grpc = pytest.importorskip("grpc")

    def answer(request: bytes, context: Any) -> bytes:
        brought = dict(context.invocation_metadata()).get("authorization")
        if token is not None and brought != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b"alive"

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc, name-defined]
        def service(self, call: Any) -> Any:
            known = call.method == method
            return grpc.unary_unary_rpc_method_handler(answer) if known else None

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Handler(),))
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], tls.authority, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextmanager
def dashboard(token: str | None = None) -> Iterator[int]:
    """Its port. It refuses as Ray does: 401 for a missing token, 403 for a wrong one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            brought = self.headers.get("authorization")
            open_to = token is None or brought == f"Bearer {token}"
            self.send_response(200 if open_to else 403 if brought else 401)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Doors:
    """Where both listen."""

    control: str
    dashboard_port: int


@contextmanager
def cluster(
    control_token: str | None = TOKEN, dashboard_token: str | None = TOKEN, tls: Tls | None = None
) -> Iterator[Doors]:
    with control_service(control_token, tls) as address, dashboard(dashboard_token) as port:
        yield Doors(address, port)


def node_certificate() -> Tls:
    """One that signs itself, for 127.0.0.1: node and authority at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Tls(pem, private, pem)
