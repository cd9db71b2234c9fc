import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from foundry.cli.main import run
from foundry.config import child_environment
from foundry.infra.embedded import state
from foundry.infra.embedded.listeners import (
    PROBES,
    Exposure,
    Listener,
    Verdict,
    find_listeners,
    judge_listeners,
    refuses_http,
)


def _listener(address: str, process: str = "raylet") -> Listener:
    return Listener(7, process, address, 4000)


def _never(host: str, port: int) -> bool | None:
    raise AssertionError("a listener on loopback is not asked")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.4.5", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_closed_and_not_asked(address: str) -> None:
    (found,) = judge_listeners([_listener(address)], [_never])
    assert found.verdict is Verdict.LOOPBACK


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ((True, None), Verdict.REFUSES),
        ((None, True), Verdict.REFUSES),
        ((True, False), Verdict.EXPOSED),
        ((False, None), Verdict.EXPOSED),
        ((None, None), Verdict.EXPOSED),
        ((), Verdict.EXPOSED),
    ],
)
def test_elsewhere_only_a_refusal_counts(
    answers: tuple[bool | None, ...], verdict: Verdict
) -> None:
    asked: list[tuple[str, int]] = []

    def probe_of(answer: bool | None):  # type: ignore[no-untyped-def]
        def probe(host: str, port: int) -> bool | None:
            asked.append((host, port))
            return answer

        return probe

    (found,) = judge_listeners([_listener("0.0.0.0")], [probe_of(answer) for answer in answers])
    assert found.verdict is verdict
    assert asked == [("127.0.0.1", 4000)] * len(answers)


def test_the_reason_names_who_binds_it_there() -> None:
    (found,) = judge_listeners(
        [_listener("::", "ray::ServeReplica:gateway")], [lambda host, port: True]
    )
    assert found.reason.startswith("Serve binds a replica's gRPC server to every interface")


class _Server(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/metrics" else 404)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Server) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "refuses"), [(200, False), (401, True), (404, None)])
def test_what_an_http_server_answers_strangers(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, refuses: bool | None
) -> None:
    monkeypatch.setattr(_Server, "status", status)
    assert refuses_http("127.0.0.1", server.server_port) is refuses


_TWO_SOCKETS = """
import socket, sys
open_, closed = socket.socket(), socket.socket()
open_.bind(("0.0.0.0", 0)); closed.bind(("127.0.0.1", 0))
open_.listen(); closed.listen()
print(open_.getsockname()[1], closed.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Of a process of this home's stack: on every interface, and on loopback."""
    with subprocess.Popen(
        [sys.executable, "-c", _TWO_SOCKETS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(FOUNDRY_STACK_ID=state.stack_id(tmp_path)),
    ) as child:
        assert child.stdout is not None
        everywhere, loopback = map(int, child.stdout.readline().split())
        yield everywhere, loopback
        child.kill()


def test_real_sockets_are_found_by_the_stacks_marker(
    tmp_path: Path, sockets: tuple[int, int]
) -> None:
    found = find_listeners(state.stack_id(tmp_path))
    assert {(item.address, item.port) for item in found} == {
        ("0.0.0.0", sockets[0]),
        ("127.0.0.1", sockets[1]),
    }
    assert find_listeners(state.stack_id(tmp_path / "other")) == []


def test_the_doctor_fails_on_an_exposed_listener(
    tmp_path: Path,
    sockets: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    monkeypatch.setattr("foundry.cli.doctor.PROBES", (lambda host, port: None,))
    assert run(["doctor", "--security", "--output", "json"]) == 1
    rows = {row["port"]: row for row in json.loads(capsys.readouterr().out)["listeners"]}
    assert rows[sockets[0]]["verdict"] == "EXPOSED"
    assert rows[sockets[1]]["verdict"] == "loopback"
    monkeypatch.setattr("foundry.cli.doctor.PROBES", (lambda host, port: True,))
    assert run(["doctor", "--security", "--output", "json"]) == 0


def test_a_server_of_ray_is_judged_by_its_token() -> None:
    """gRPC: an unknown method proves nothing, a known one without a token must be refused."""
    grpc = pytest.importorskip("grpc")

    class Guard(grpc.ServerInterceptor):  # type: ignore[misc, name-defined]
        def intercept_service(self, continuation, details):  # type: ignore[no-untyped-def]
            if not details.method.startswith("/ray."):
                return continuation(details)
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
            )

    def verdict_of(*interceptors: object) -> Exposure:
        running = grpc.server(futures.ThreadPoolExecutor(2), interceptors=interceptors)
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        try:
            (found,) = judge_listeners([Listener(os.getpid(), "python", "0.0.0.0", port)], PROBES)
        finally:
            running.stop(None).wait()
        return found

    assert verdict_of(Guard()).verdict is Verdict.REFUSES
    assert verdict_of().verdict is Verdict.EXPOSED
