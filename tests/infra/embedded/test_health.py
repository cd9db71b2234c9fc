import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from foundry.config import HttpSettings, Settings
from foundry.infra.embedded.health import http_status, inspect


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
        assert http_status(settings.base_url + "/v1/health") == 200
        found = inspect(settings, None)
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
