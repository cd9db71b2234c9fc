"""A server that gives fixed answers to commands."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

# A server looks so often whether it is to end: each test would wait for it.
_POLL_S = 0.01
Answer = tuple[int, object]


class Server(ThreadingHTTPServer):
    """Attributes:
    answers: by path below /api, status and body; a list: one after the other.
    asked: paths and bodies that came.
    queries: that came with them.
    """

    answers: ClassVar[dict[str, Answer | list[Answer]]] = {}
    asked: ClassVar[list[tuple[str, Any]]] = []
    queries: ClassVar[list[str]] = []


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        target, _, query = self.path.partition("?")
        path = target.removeprefix("/api")
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        Server.asked.append((path, json.loads(content) if content else None))
        Server.queries.append(query)
        answer = Server.answers[path]
        status, body = answer.pop(0) if isinstance(answer, list) else answer
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Server]]:
    Server.answers, Server.asked, Server.queries = {}, [], []
    running = Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=running.serve_forever, args=(_POLL_S,))
    thread.start()
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    monkeypatch.setenv("FOUNDRY_CLIENT__URL", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.setenv("FOUNDRY_CLIENT__API_KEY", "fk_test")
    monkeypatch.setenv("COLUMNS", "200")
    yield Server
    running.shutdown()
    running.server_close()
    thread.join()
