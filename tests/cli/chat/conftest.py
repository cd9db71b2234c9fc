"""A server that streams answers, on loopback."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# A server looks so often whether it is to end: each test would wait for it.
_POLL_S = 0.01
SERVED = ("bot", "bot@production", "smol")
_ERRORS: Mapping[str, tuple[int, str, str]] = {
    "gone": (503, "no_healthy_upstream", "bot@1.0.0 is stopped: `foundry deploy bot` starts it"),
    "busy": (429, "overloaded", "too many requests; retry after a moment"),
    "long": (400, "context_length_exceeded", "the prompt has 9000 tokens, the model takes 2048"),
}


@dataclass
class ChatServer:
    """The last message says what it does: `slow` never ends, `silent` never begins, …

    Attributes:
        asked: the bodies that came.
        hung_up: set once a client closed a stream that had not ended.
    """

    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)

    @property
    def prompts(self) -> list[list[str]]:
        """The contents of the messages of each request."""
        return [[message["content"] for message in body["messages"]] for body in self.asked]


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": name} for name in SERVED]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        chat = self.server.chat
        chat.asked.append(body)
        prompt = body["messages"][-1]["content"]
        if body["model"].partition("@")[0] not in SERVED:
            return self._refuse(404, "model_not_found", f"the model {body['model']} does not exist")
        if prompt in _ERRORS:
            return self._refuse(*_ERRORS[prompt])
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        if prompt == "silent":
            # Returns when the client closes its end.
            assert self.connection.recv(1) == b""
            return chat.hung_up.set()
        if prompt == "slow":
            return self._stream_for_ever()
        if prompt == "broken":
            return self._event("half an ans")
        self._event(f"<{prompt}>" if prompt != "hostile" else "\x1b[2J\x07\ud800red\n")
        self._event("", "length" if body.get("max_tokens") == 1 else "stop")
        self.wfile.write(b"data: [DONE]\n\n")

    def _stream_for_ever(self) -> None:
        try:
            while True:
                self._event("tick ")
                time.sleep(0.02)
        except OSError:
            self.server.chat.hung_up.set()

    def _event(self, text: str, reason: str | None = None) -> None:
        choice = {"delta": {"content": text}, "finish_reason": reason}
        self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        self.wfile.flush()

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "x", "code": code}})

    def _send(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    chat: ChatServer


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    running = _Server(("127.0.0.1", 0), _Handler)
    running.chat = ChatServer(f"http://127.0.0.1:{running.server_port}")
    thread = threading.Thread(target=running.serve_forever, args=(_POLL_S,))
    thread.start()
    yield running.chat
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def environment(chat_server: ChatServer, tmp_path: Path) -> dict[str, str]:
    """The variables of a client of that server."""
    return {
        "FOUNDRY_HOME": str(tmp_path / "home"),
        "FOUNDRY_CLIENT__URL": chat_server.url,
        "FOUNDRY_CLIENT__API_KEY": "fk_test",
    }
