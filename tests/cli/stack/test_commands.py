import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundry.cli.main import COMMANDS, run
from foundry.cli.output.console import choose_exit_code
from foundry.errors import (
    AlreadyRunning,
    DiskFull,
    InvalidDataset,
    ModelNotFound,
    NoHealthyUpstream,
    PermissionDenied,
    Unauthenticated,
)
from foundry.infra.embedded.home_lock import lock_home
from foundry.infra.embedded.paths import ensure_home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("FOUNDRY_HOME", str(folder))
    return folder


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidDataset("x"), 2),
        (ModelNotFound("x"), 3),
        (Unauthenticated("x"), 4),
        (PermissionDenied("x"), 4),
        (NoHealthyUpstream("x"), 5),
        (AlreadyRunning("x"), 6),
        (DiskFull("x"), 1),
    ],
)
def test_exit_codes_are_stable(error: InvalidDataset, code: int) -> None:
    assert choose_exit_code(error) == code


def test_help_is_quick_and_lists_every_command() -> None:
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "foundry.cli.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - began < 5
    assert all(name in result.stdout for name in COMMANDS)
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not loaded & {"sqlalchemy", "fastapi", "pydantic", "ray", "torch", "httpx"}


def test_down_twice_is_no_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    assert run(["down"]) == 0
    assert run(["down"]) == 0
    assert capsys.readouterr().out == "nothing was running\nnothing was running\n"


def test_down_without_a_home_makes_none(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["down", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": 0, "home_missing": True}
    assert not home.exists()


def test_status_of_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--output", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["endpoints"], told["jobs"], told["work_known"]) == ([], [], False)
    parts = {part["part"]: part for part in told["parts"]}
    assert list(parts) == [
        "postgres",
        "ray",
        "supervisor",
        "gateway",
        "control",
        "guard",
    ]
    assert parts["ray"] == {
        "part": "ray",
        "state": "gone",
        "healthy": False,
        "detail": "not running",
        "pid": None,
        "port": 6380,
    }


def test_a_taken_port_is_named_with_the_setting_to_change(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("FOUNDRY_HTTP__PORT", str(port))
        assert run(["up"]) == 2
    message = capsys.readouterr().err
    assert f"error: port {port} is taken by python" in message
    assert "choose another port with FOUNDRY_HTTP__PORT=" in message
    assert "foundry down" not in message


def test_a_second_up_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock_home(home, "make demo"):
        assert run(["up"]) == 6
    message = capsys.readouterr().err
    assert "make demo (pid" in message
    assert "wait until it ends" in message


def test_an_unknown_setting_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDRY_DATABSE__URL", "x")
    assert run(["config", "check"]) == 2
    assert "unknown setting FOUNDRY_DATABSE__URL: check the spelling" in capsys.readouterr().err


def test_a_misspelled_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dwn"]) == 2
    assert "Did you mean 'down'" in capsys.readouterr().err


def test_logs_of_an_unknown_part(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["logs", "nothing"]) == 3
    assert "no part is called 'nothing': choose from postgres, ray, serve" in (
        capsys.readouterr().err
    )


def test_env_names_the_token_and_no_marker(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["env"]) == 0
    shown = capsys.readouterr().out
    assert f"export RAY_AUTH_TOKEN_PATH={home}/secrets/ray-token\n" in shown
    assert "export RAY_ADDRESS=127.0.0.1:6380\n" in shown
    assert "FOUNDRY_STACK_ID" not in shown


def test_doctor_explains_itself(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--output", "json"])
    report = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in report["checks"]]
    assert names[:4] == ["python", "memory", "home", "disk"]
    assert report["build"]["torch"].startswith("2.13.0")
    assert report["machine"]["cores"] >= 1


def test_up_closes_what_others_may_read_and_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_home(home)
    log = home / "logs" / "serve.log"
    log.write_text("")
    log.chmod(0o644)
    # It stops at the lock, before anything is started.
    with lock_home(home, "make demo"):
        assert run(["up", "--plan"]) == 0
        assert "plan: close to other accounts logs/serve.log\n" in capsys.readouterr().out
        assert log.stat().st_mode & 0o777 == 0o644
        assert run(["up"]) == 6
    assert "closed to other accounts: logs/serve.log\n" in capsys.readouterr().err
    assert log.stat().st_mode & 0o777 == 0o600


def test_doctor_names_open_files_that_are_not_ours(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensure_home(home)
    notes = home / "notes"
    notes.write_text("")
    notes.chmod(0o644)
    home.chmod(0o711)
    assert run(["doctor", "--security", "--output", "json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "listeners": [],
        "files": [
            {
                "file": str(notes),
                "mode": "0644",
                "verdict": "OPEN",
                "next_step": f"yours: chmod go= {notes}",
            }
        ],
    }
    home.chmod(0o700)
    assert run(["doctor", "--security"]) == 0
    assert "behind a closed folder" in capsys.readouterr().out
