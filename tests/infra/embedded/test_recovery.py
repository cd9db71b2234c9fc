"""A PostgreSQL that replays its log refuses callers; whoever stops it makes it begin anew."""

import subprocess
from pathlib import Path

import pytest

from foundry.config import RaySettings, Settings
from foundry.errors import Unavailable
from foundry.infra.embedded import postgres
from foundry.infra.embedded.guard_process import look_for_silent
from foundry.infra.embedded.postgres import Reply
from foundry.infra.embedded.watch import Silence

PID = 4242


class Server:
    """Programs of a living PostgreSQL whose pg_isready exits with `codes`, the last for ever."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.ran: list[str] = []

    def run(self, name: str, *arguments: str, **_: object) -> str:
        self.ran.append(name)
        if name == "pg_isready":
            code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
            if code:
                raise subprocess.CalledProcessError(code, name)
        return "1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(postgres, "running_pid", lambda home: PID)
    monkeypatch.setattr(postgres, "_POLL_S", 0.0)
    return tmp_path


def _serve(monkeypatch: pytest.MonkeyPatch, *codes: int) -> Server:
    server = Server(*codes)
    monkeypatch.setattr(postgres, "run_program", server.run)
    return server


def test_start_waits_for_a_recovery_and_stops_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = _serve(monkeypatch, 1, 1, 1, 0)
    monkeypatch.setattr(postgres, "stop", lambda home: pytest.fail("it was stopped"))
    assert postgres.start(home, keep_rules=True) == PID
    assert server.ran == ["pg_isready"] * 4 + ["psql", "psql"]


def test_a_recovery_without_end_is_told_and_not_stopped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(monkeypatch, 1)
    monkeypatch.setattr(postgres, "_RECOVERY_S", 0)
    monkeypatch.setattr(postgres, "stop", lambda home: pytest.fail("it was stopped"))
    with pytest.raises(Unavailable, match="still recovers after a crash"):
        postgres.start(home)


@pytest.mark.parametrize(
    ("code", "reply", "silences"),
    [
        (0, Reply.ACCEPTS, ()),
        (1, Reply.REJECTS, ()),
        (2, Reply.SILENT, (Silence("postgres", "it runs and does not answer", 30.0),)),
    ],
)
def test_only_no_response_is_silence_to_the_guard(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    reply: Reply,
    silences: tuple[Silence, ...],
) -> None:
    _serve(monkeypatch, code)
    settings = Settings(home=home, ray=RaySettings(address="127.0.0.1:1"))
    assert postgres.ask(home) is reply
    assert look_for_silent(settings, None).silences == silences
