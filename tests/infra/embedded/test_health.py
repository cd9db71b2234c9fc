import os
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from foundry.config import HttpSettings, Settings
from foundry.infra.embedded import health, postgres
from foundry.infra.embedded.health import (
    Condition,
    PartStatus,
    inspect_parts,
    read_http_status,
)
from foundry.infra.embedded.heartbeat import Heartbeat


class _Neighbour(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def test_a_fresh_home_beside_another_stack_reports_its_own_state_only(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _Neighbour) as neighbour:
        thread = threading.Thread(target=neighbour.serve_forever, args=(0.01,), daemon=True)
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
    ("reply", "condition", "detail"),
    [
        (postgres.Reply.ACCEPTS, Condition.HEALTHY, "embedded, Unix socket"),
        (
            postgres.Reply.REJECTS,
            Condition.RECOVERING,
            "refuses callers until it has recovered",
        ),
        (postgres.Reply.SILENT, Condition.SILENT, "it runs and does not answer"),
    ],
)
def test_a_postgresql_that_has_a_pid_and_takes_no_queries_is_not_healthy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reply: postgres.Reply,
    condition: Condition,
    detail: str,
) -> None:
    monkeypatch.setattr(postgres, "find_running_pid", lambda home: 4711)
    monkeypatch.setattr(postgres, "probe_server", lambda home: reply)
    part = inspect_parts(Settings(home=tmp_path), None)[0]
    assert part == PartStatus("postgres", condition, detail, pid=4711)
    assert part.healthy is (condition is Condition.HEALTHY)


@dataclass(frozen=True, slots=True)
class _Actor:
    """This process as the supervisor's."""

    age_s: float = 1.0
    frozen: bool = False
    pid: int = field(default_factory=os.getpid)

    def status(self) -> str:
        return psutil.STATUS_STOPPED if self.frozen else psutil.STATUS_SLEEPING

    def create_time(self) -> float:
        return time.time() - self.age_s


@dataclass(frozen=True, slots=True)
class _Beat:
    """A heartbeat of some time ago."""

    ago_s: float
    acts: bool = True
    stuck: tuple[str, ...] = ()
    pid: int = field(default_factory=os.getpid)

    def written(self) -> Heartbeat:
        at = time.monotonic() - self.ago_s
        return Heartbeat(self.pid, at, due_s=15.0, acts=self.acts, stuck=self.stuck)


@pytest.mark.parametrize(
    ("actor", "beat", "condition", "detail"),
    [
        (_Actor(), _Beat(2), Condition.HEALTHY, "acts"),
        (_Actor(), _Beat(2, acts=False), Condition.HEALTHY, "waits for its lease"),
        (_Actor(), _Beat(100), Condition.STUCK, "its loop has not turned for 100 s"),
        (
            _Actor(),
            _Beat(2, stuck=("jobs", "endpoints")),
            Condition.STUCK,
            "does not get on with jobs, endpoints",
        ),
        # The one before it wrote that, so it says nothing of this one.
        (_Actor(age_s=60), _Beat(100, pid=1), Condition.STARTING, "starting"),
        (_Actor(age_s=60), None, Condition.STARTING, "starting"),
        (_Actor(age_s=130), None, Condition.STUCK, "started 130 s ago and has not begun to work"),
        (_Actor(frozen=True), _Beat(2), Condition.FROZEN, "stopped by a signal"),
    ],
)
def test_a_supervisor_lives_by_its_heartbeat(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    actor: _Actor,
    beat: _Beat | None,
    condition: Condition,
    detail: str,
) -> None:
    monkeypatch.setattr(health, "find_supervisor", lambda processes: actor)
    monkeypatch.setattr(health, "read_heartbeat", lambda home: beat.written() if beat else None)
    part = next(p for p in inspect_parts(Settings(home=tmp_path), None) if p.part == "supervisor")
    assert part == PartStatus("supervisor", condition, detail, pid=os.getpid())
