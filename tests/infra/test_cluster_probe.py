"""Calls of a cluster with and without its token, of servers that ask for it and that do not."""

import base64
import importlib.util
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from foundry.config import child_environment
from foundry.infra.cluster_probe import (
    Reply,
    Tls,
    ask_control_service,
    ask_dashboard,
    is_loopback,
)
from foundry.infra.embedded.ports import free_ports
from tests.fakes.ray_doors import TOKEN, control_service, dashboard, node_certificate


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("ray-head.example", False),
        ("localhost.example", False),
    ],
)
def test_loopback_is_this_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("demanded", "brought", "reply"),
    [
        (None, None, Reply.ANSWERED),
        (None, TOKEN, Reply.ANSWERED),
        (TOKEN, None, Reply.REFUSED),
        (TOKEN, "wrong", Reply.REFUSED),
        (TOKEN, TOKEN, Reply.ANSWERED),
    ],
)
def test_both_doors_say_whether_they_ask_for_the_token(
    demanded: str | None, brought: str | None, reply: Reply
) -> None:
    with control_service(demanded) as address:
        assert ask_control_service(address, token=brought) is reply
    with dashboard(demanded) as port:
        assert ask_dashboard("127.0.0.1", port, token=brought) is reply


def test_whoever_says_nothing_is_waited_for_in_vain() -> None:
    """A listener that accepts and is silent, one that is no longer there, and another's server."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        address = f"127.0.0.1:{port}"
        assert ask_control_service(address, token=TOKEN, timeout_s=0.2) is Reply.NONE
        assert ask_dashboard("127.0.0.1", port, token=TOKEN, timeout_s=0.2) is Reply.NONE
    assert ask_control_service(address, timeout_s=5) is Reply.NONE
    assert ask_dashboard("127.0.0.1", port, timeout_s=5) is Reply.NONE
    with dashboard() as port:
        assert ask_control_service(f"127.0.0.1:{port}", timeout_s=5) is Reply.NONE
    with control_service(method="/another.Service/Method") as address:
        assert ask_control_service(address, timeout_s=5) is Reply.NONE


def test_tls_is_spoken_with_the_nodes_certificate_only() -> None:
    ours, other = node_certificate(), node_certificate()
    with control_service(TOKEN, ours) as address:
        assert ask_control_service(address, tls=ours, timeout_s=5) is Reply.REFUSED
        assert ask_control_service(address, token=TOKEN, tls=ours, timeout_s=5) is Reply.ANSWERED
        assert ask_control_service(address, token=TOKEN, tls=other, timeout_s=5) is Reply.NONE
        assert ask_control_service(address, token=TOKEN, timeout_s=5) is Reply.NONE


@contextmanager
def _real_control_service(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Ray's own server, without anything around it."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    port = next(free_ports(str(folder)))
    command = [
        str(Path(spec.origin).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"),
        f"--gcs_server_port={port}",
        "--metrics-agent-port=0",
        "--node-ip-address=127.0.0.1",
        f"--log_dir={folder}",
        f"--config_list={base64.b64encode(b'{}').decode()}",
        "--session-name=test",
    ]
    with (
        (folder / "gcs.log").open("wb") as log,
        subprocess.Popen(
            command, env=child_environment(**environment), stdout=log, stderr=log
        ) as server,
    ):
        try:
            _wait_until_it_listens(psutil.Process(server.pid), port)
            yield f"127.0.0.1:{port}"
        finally:
            server.kill()


def _wait_until_it_listens(server: psutil.Process, port: int) -> None:
    """Raises psutil.NoSuchProcess: it died."""
    while not any(
        each.status == psutil.CONN_LISTEN and each.laddr.port == port
        for each in server.net_connections("tcp")
    ):
        pass


@pytest.mark.ray
@pytest.mark.parametrize("encrypted", [False, True])
def test_rays_own_control_service_is_told_apart(tmp_path: Path, encrypted: bool) -> None:
    """What the fakes do is what Ray does."""
    tls = _write_certificate(tmp_path) if encrypted else None
    (tmp_path / "token").write_text(TOKEN)
    closed = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_USE_TLS": "1" if encrypted else "0",
        "RAY_TLS_SERVER_CERT": str(tmp_path / "node.pem"),
        "RAY_TLS_SERVER_KEY": str(tmp_path / "node-key.pem"),
        "RAY_TLS_CA_CERT": str(tmp_path / "ca.pem"),
    }
    with _real_control_service(tmp_path, closed) as address:
        assert ask_control_service(address, tls=tls) is Reply.REFUSED
        assert ask_control_service(address, token="wrong", tls=tls) is Reply.REFUSED
        assert ask_control_service(address, token=TOKEN, tls=tls) is Reply.ANSWERED
        if encrypted:
            assert ask_control_service(address, token=TOKEN) is Reply.NONE
    with _real_control_service(tmp_path, {**closed, "RAY_AUTH_MODE": "disabled"}) as address:
        assert ask_control_service(address, tls=tls) is Reply.ANSWERED


def _write_certificate(folder: Path) -> Tls:
    tls = node_certificate()
    (folder / "node.pem").write_bytes(tls.certificate)
    (folder / "node-key.pem").write_bytes(tls.key)
    (folder / "ca.pem").write_bytes(tls.authority)
    return tls
