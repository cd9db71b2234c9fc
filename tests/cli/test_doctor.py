"""`foundry doctor`: each line is evidence, and each piece of advice can be followed."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from foundry.cli import doctor
from foundry.cli.doctor import Check, _print_checks
from foundry.cli.main import run
from foundry.infra.embedded.paths import ensure_home
from foundry.infra.hardware import DetectionReport, Device, detect
from tests.cli.conftest import Server
from tests.sdk.answers import failure

Capture = pytest.CaptureFixture[str]
WHO = {
    "tenant_id": "t",
    "project_id": "p",
    "subject": "ada",
    "role": "viewer",
    "scopes": ["*:*"],
    "permissions": ["jobs:read"],
    "key_id": "k",
}
HEALTHY = (200, {"status": "ok", "version": "0.1.0"})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path / "my home"))
    return tmp_path / "my home"


def checks(capsys: Capture) -> dict[str, dict[str, object]]:
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_a_taken_port_names_its_holder_and_another(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("FOUNDRY_HTTP__PORT", str(port))
        assert run(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (at,) = (number for number, line in enumerate(lines) if f" {port} is taken by " in line)
    assert lines[at].startswith("no  port ")
    assert "(pid " in lines[at]
    assert "or choose another port with FOUNDRY_HTTP__PORT=" in lines[at + 1]


def test_lines_end_where_their_text_does_and_hold_no_python(home: Path, capsys: Capture) -> None:
    run(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert all(line == line.rstrip() for line in lines)
    (build,) = (line for line in lines if line.startswith("build "))
    assert "[" not in build


def machine_of(vendor: str, device: str, driver: str) -> DetectionReport:
    found = Device(vendor, "0000:01:00.0", device)
    return replace(
        detect(), accelerator=vendor, devices=(found,), drivers={vendor: driver} if driver else {}
    )


def test_a_driver_that_is_too_old_and_a_device_without_kernels(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    h100, v100 = "0x2330", "0x1db6"
    for device, driver, failed in (
        (h100, "nvidia 580.95.05", set()),
        (h100, "nvidia 570.1", {"driver"}),
        (v100, "nvidia 580.95.05", {"device"}),
    ):
        report = machine_of("nvidia", device, driver)
        monkeypatch.setattr(doctor, "detect", lambda report=report: report)
        run(["doctor", "-o", "json"])
        found = checks(capsys)
        wrong = {name for name in ("driver", "device") if not found.get(name, {"ok": True})["ok"]}
        assert wrong == failed
    assert "no kernels for 0000:01:00.0" in str(found["device"]["detail"])


def test_what_is_known_of_a_build_without_a_lock(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "detect", lambda: machine_of("amd", "0x74a1", ""))
    run(["doctor", "-o", "json"])
    report = json.loads(capsys.readouterr().out)
    assert report["build"]["states"] == ["planned"]
    assert report["build"]["lock"] is None
    states = {row["accelerator"]: row["states"] for row in report["builds"]}
    assert "locked" in states["cpu"] and "locked" in states["nvidia"]
    run(["doctor"])
    text = capsys.readouterr().out
    assert "state        planned; detection only" in text
    assert "missing      its index could not be reached" in text
    assert "by hand      python3.12 -m venv .venv" in text
    assert "others       cpu locked" in text


def test_advice_goes_below_its_line_without_a_broken_word(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    step = "stop that program, or choose FOUNDRY_RAY__DASHBOARD_PORT=20000"
    _print_checks([Check("python", True, "3.11"), Check("port", False, "1 is taken", step)])
    lines = [line for line in capsys.readouterr().out.split("\n") if "\x1b" not in line]
    assert [line.strip() for line in lines if line.startswith("   ")] == [
        "stop that program, or choose",
        "FOUNDRY_RAY__DASHBOARD_PORT=20000",
    ]


@pytest.mark.parametrize(
    ("health", "who", "ok", "detail", "step"),
    [
        (HEALTHY, (200, WHO), True, " answers; the key has the role viewer", ""),
        (
            HEALTHY,
            (403, failure(403, "permission_denied", "no keys:read").json()),
            True,
            " answers; the key is limited",
            "",
        ),
        (
            HEALTHY,
            (401, failure(401, "invalid_api_key", "set FOUNDRY_CLIENT__API_KEY").json()),
            False,
            ": invalid_api_key",
            "set FOUNDRY_CLIENT__API_KEY",
        ),
        (
            (503, failure(503, "database_unavailable", "PostgreSQL is down").json()),
            (200, WHO),
            False,
            ": database_unavailable",
            "PostgreSQL is down",
        ),
    ],
)
def test_the_server_that_commands_would_ask_is_asked(
    server: type[Server],
    capsys: Capture,
    health: tuple[int, object],
    who: tuple[int, object],
    ok: bool,
    detail: str,
    step: str,
) -> None:
    server.answers.update({"/health": health, "/whoami": who})
    run(["doctor", "-o", "json"])
    check = checks(capsys)["server"]
    assert check["ok"] is ok
    assert str(check["detail"]).endswith(detail)
    assert step in str(check["next_step"])


def test_open_folders_are_told_once_with_a_command_that_closes_them(
    home: Path, capsys: Capture
) -> None:
    ensure_home(home)
    folder = home / "my notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("")
    for path in (folder, folder / "deep"):
        path.chmod(0o755)
    (folder / "deep" / "file").chmod(0o644)
    home.chmod(0o711)
    assert run(["doctor", "--security"]) == 1
    out = capsys.readouterr().out
    (row,) = (line for line in out.splitlines() if line.split()[-2:-1] == ["OPEN"])
    assert row.split()[-1] == "2"
    assert f"to close: chmod -R go= '{folder}'\n" in out
    assert run(["doctor", "--security", "-o", "json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["files"]) == 3
