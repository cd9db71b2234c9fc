"""A shell completes the names that a server has, and nothing where it cannot be asked in time."""

import socket
import time
from pathlib import Path

import pytest

from foundry.cli.completion import COMPLETE_VARIABLE
from foundry.cli.main import run
from foundry.cli.suggestions import DEADLINE_S
from tests.cli.conftest import Server
from tests.cli.test_keys import key
from tests.sdk.answers import AT, ENDPOINT_ID, VERSION_ID, endpoint, job

OTHER_ID = "0298f3c2-0000-7000-8000-000000000009"
ALIAS: dict[str, object] = {
    "name": "production",
    "version": "1.0.0",
    "version_id": VERSION_ID,
    "row_version": 1,
    "protected": False,
    "updated_at": AT,
}


def complete(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """What bash is told for the last word of a line; nothing is ever said beside it."""
    monkeypatch.setenv(COMPLETE_VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    assert run([]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out.split()


def _page(*rows: dict[str, object]) -> tuple[int, object]:
    return 200, {"data": list(rows), "next_cursor": None}


def _model(name: str) -> dict[str, object]:
    return {
        "name": name,
        "kind": "base",
        "architecture": "LlamaForCausalLM",
        "parameter_count": 1,
        "created_at": AT,
        "id": VERSION_ID,
        "context_length": 2048,
        "licence": None,
        "tags": [],
        "created_by": "ada",
        "version_count": 1,
        "latest_version": "1.0.0",
        "aliases": [ALIAS],
    }


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("foundry jobs show ", ["last", "support-bot", "parcels"]),
        ("foundry jobs logs s", ["support-bot"]),
        (f"foundry jobs cancel {OTHER_ID[:3]}", [OTHER_ID]),
        ("foundry endpoints stop ", ["smol"]),
        (f"foundry endpoints scale {ENDPOINT_ID[:2]}", [ENDPOINT_ID]),
        ("foundry budsim outcomes --endpoint s", ["smol"]),
        ("foundry keys revoke ", ["ci"]),
        ("foundry keys revoke pD", ["pDKGA7lmjZWL"]),
        ("foundry chat s", ["smollm2", "support-bot"]),
        ("foundry deploy s", ["smollm2", "support-bot"]),
        ("foundry models show s", ["smollm2", "support-bot"]),
        ("foundry train sft --base s", ["smollm2", "support-bot"]),
        ("foundry budsim recommend s", ["smollm2", "support-bot"]),
    ],
)
def test_names_are_completed(
    server: type[Server],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    names: list[str],
) -> None:
    server.answers = {
        "/jobs": _page(job("RUNNING"), job("FAILED"), job("RUNNING", id=OTHER_ID, name="parcels")),
        "/endpoints": _page(endpoint("RUNNING")),
        "/keys": _page(key(), key(id="pDold", name="old", revoked_at=AT)),
        "/models": _page(_model("smollm2"), _model("support-bot")),
    }
    assert complete(line, monkeypatch, capsys) == names


def test_a_file_is_no_name(
    server: type[Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complete("foundry datasets add support ", monkeypatch, capsys) == []
    assert server.asked == []


def test_behind_the_at_come_versions(
    server: type[Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/models/smollm2"] = (200, _model("smollm2"))
    server.answers["/models/smollm2/versions"] = _page()
    line = "foundry models delete smollm2@"
    assert complete(line, monkeypatch, capsys) == ["smollm2@production"]


@pytest.mark.parametrize(
    "answer",
    [
        (401, {"error": {"message": "no", "type": "x", "param": None, "code": "unauthenticated"}}),
        (500, "nothing"),
        (200, {"data": "odd"}),
    ],
)
def test_a_refusal_completes_nothing(
    server: type[Server],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: tuple[int, object],
) -> None:
    server.answers["/jobs"] = answer
    assert complete("foundry jobs show ", monkeypatch, capsys) == []


def test_wrong_settings_complete_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    monkeypatch.setenv("FOUNDRY_DATABSE__POOL_SIZE", "3")
    assert complete("foundry jobs show ", monkeypatch, capsys) == []


def test_a_silent_server_is_left_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("foundry.cli.suggestions.DEADLINE_S", 0.1)
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("FOUNDRY_CLIENT__URL", url)
        began = time.monotonic()
        assert complete("foundry jobs show ", monkeypatch, capsys) == []
        assert time.monotonic() - began < 5
    assert DEADLINE_S <= 1.0
