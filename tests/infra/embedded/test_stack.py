"""`up` and `down` with a real Ray and PostgreSQL; the HTTP applications are a stand-in."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from foundry.config import HttpSettings, RaySettings, Settings, child_environment
from foundry.infra.embedded import health, postgres, stack, starting, state
from foundry.infra.embedded.guard.lifecycle import end_guard
from foundry.infra.embedded.paths import runtime_dir
from foundry.infra.embedded.ports import find_free_ports
from foundry.infra.embedded.processes import list_stack_processes, wait_until_gone

pytestmark = pytest.mark.ray

_SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture
def settings() -> Iterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    ports = find_free_ports(str(home) + "test")
    found = Settings(
        home=home,
        http=HttpSettings(port=next(ports)),
        ray=RaySettings(port=next(ports), dashboard_port=next(ports), num_cpus=1),
    )
    yield found
    stack.down(home, lambda text: None)
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(runtime_dir(home), ignore_errors=True)


@pytest.fixture
def steps(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which steps ran; the HTTP one starts the stand-in as a process of the stack."""
    ran: list[str] = []

    def run_step(
        module: str,
        *,
        log: Path,
        environment: Mapping[str, str],
        timeout_s: float,
        progress: Callable[[str], None],
        arguments: Sequence[str] = (),
    ) -> list[str]:
        ran.append(module)
        if module == "foundry.control.bootstrap":
            return [json.dumps({"api_key": "fk_live_first" if ran.count(module) == 1 else None})]
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(settings.http.port)],
            env=child_environment(**environment),
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        server.stdout.close()
        servers.append(server)
        return []

    servers: list[subprocess.Popen[bytes]] = []

    def stand_in(processes: Iterable[psutil.Process]) -> psutil.Process | None:
        return psutil.Process(servers[-1].pid) if servers and servers[-1].poll() is None else None

    monkeypatch.setattr(starting, "run_step", run_step)
    monkeypatch.setattr(starting, "find_supervisor", stand_in)
    monkeypatch.setattr(health, "find_supervisor", stand_in)
    return ran


def _quiet(text: str) -> None:
    """Nobody watches."""


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_the_life_of_a_stack(settings: Settings, steps: list[str]) -> None:
    home = settings.home
    stack.up(settings, _quiet)
    credentials = home / "credentials.json"
    assert json.loads(credentials.read_text()) == {
        "url": settings.base_url,
        "api_key": "fk_live_first",
    }
    assert credentials.stat().st_mode & 0o777 == 0o600
    assert [(part.part, part.healthy) for part in stack.status(settings)] == [
        ("postgres", True),
        ("ray", True),
        ("supervisor", True),
        ("gateway", True),
        ("control", True),
        ("guard", True),
    ]

    assert stack.up(settings, _quiet) == state.load_state(home)
    assert steps == ["foundry.control.bootstrap", "serve_apps.start"]

    found = state.load_state(home)
    assert found is not None
    database = postgres.find_running_pid(home)
    assert database is not None
    # The guard would be faster.
    assert end_guard(home) == 1
    killed = [psutil.Process(pid) for pid in (found.pids["ray"][0], database)]
    for process in killed:
        os.kill(process.pid, signal.SIGKILL)
    assert wait_until_gone(killed, timeout_s=10) == []
    stack.up(settings, _quiet)
    assert all(part.healthy for part in stack.status(settings))
    assert json.loads(credentials.read_text())["api_key"] == "fk_live_first"

    shutil.rmtree(home)
    report = stack.down(home, _quiet)
    assert report.home_missing
    assert report.stopped > 5
    assert list_stack_processes(state.stack_id(home)) == []
    assert not runtime_dir(home).exists()
    assert not [process for process in psutil.process_iter() if _mentions(process, home)]
    assert stack.down(home, _quiet).stopped == 0


def _mentions(process: psutil.Process, home: Path) -> bool:
    try:
        text = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return str(home) in text or str(runtime_dir(home)) in text
