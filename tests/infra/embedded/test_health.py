import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from foundry.config import HttpSettings, Settings
from foundry.infra.embedded import postgres
from foundry.infra.embedded.health import inspect_parts, read_http_status


class _Neighbour(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def test_a_fresh_home_beside_another_stack_reports_its_own_state_only(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _Neighbour) as neighbour:
        thread = threading.Thread(target=neighbour.serve_forever, daemon=True)
        thread.start()
        settings = Settings(home=tmp_path, http=HttpSettings(port=neighbour.server_port))
        assert read_http_status(settings.base_url + "/v1/health") == 200
        found = inspect_parts(settings, None)
        neighbour.shutdown()
        thread.join()
    assert [(part.part, part.healthy) for part in found] == [
        ("postgres", False),
        ("ray", False),
        ("supervisor", False),
        ("gateway", False),
        ("control", False),
        ("guard", False),
    ]


@pytest.mark.parametrize(
    ("answers", "detail"), [(True, "embedded, Unix socket"), (False, "takes no queries")]
)
def test_a_postgresql_that_has_a_pid_and_takes_no_queries_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool, detail: str
) -> None:
    monkeypatch.setattr(postgres, "find_running_pid", lambda home: 4711)
    monkeypatch.setattr(postgres, "is_answering", lambda home: answers)
    part = inspect_parts(Settings(home=tmp_path), None)[0]
    assert (part.part, part.healthy, part.detail, part.pid) == ("postgres", answers, detail, 4711)
