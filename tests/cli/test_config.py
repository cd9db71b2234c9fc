"""`foundry config`: the list that misspelled variables are looked up in, and the check."""

import json
from pathlib import Path

import pytest

from foundry.cli.main import run
from foundry.config import HIDDEN, variable_names

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    return tmp_path


def shown(capsys: Capture) -> dict[str, dict[str, object]]:
    return {row["variable"]: row for row in json.loads(capsys.readouterr().out)}


def test_every_setting_is_listed_with_where_it_comes_from(
    home: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOUNDRY_HTTP__PORT", "8100")
    assert run(["config", "show", "-o", "json"]) == 0
    rows = shown(capsys)
    assert list(rows) == list(variable_names())
    assert rows["FOUNDRY_HOME"]["value"] == str(home)
    port = rows["FOUNDRY_HTTP__PORT"]
    assert (port["value"], port["source"]) == (8100, "environment")
    assert rows["FOUNDRY_RAY__PORT"]["source"] == "default"
    assert rows["FOUNDRY_RAY__PORT"]["description"] == "GCS port of the local Ray"


@pytest.mark.parametrize("misspelled", [{}, {"FOUNDRY_HTTP__PROT": "1"}])
def test_secrets_stay_hidden_whatever_they_are_called(
    misspelled: dict[str, str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "FOUNDRY_CLIENT__API_KEY": "hunter2",
        "FOUNDRY_DATABASE__URL": "postgresql+asyncpg://u:hunter2@h/db",
        "FOUNDRY_OBJECTS__ENDPOINT_URL": "http://u:hunter2@store:9000",
        "FOUNDRY_OBJECTS__URL": "s3://u:hunter2@[broken",
    }
    for name, value in (secrets | misspelled).items():
        monkeypatch.setenv(name, value)
    assert run(["config", "show", "-o", "json"]) == (2 if misspelled else 0)
    rows = shown(capsys)
    assert {rows[name]["value"] for name in secrets} == {HIDDEN}
    run(["config", "show"])
    assert "hunter2" not in capsys.readouterr().out


def test_a_misspelled_variable_still_finds_the_list(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOUNDRY_HTTP__PROT", "8100")
    monkeypatch.setenv("FOUNDRY_RAY__PORT", "many")
    assert run(["config", "show"]) == 2
    told = capsys.readouterr()
    assert "FOUNDRY_HTTP__PORT " in told.out
    assert "many" in told.out
    assert "unknown setting FOUNDRY_HTTP__PROT" in told.err


def test_sound_settings_pass(home: Path, capsys: Capture) -> None:
    assert run(["config", "check"]) == 0
    assert capsys.readouterr().out == f"the settings are valid; FOUNDRY_HOME is {home}\n"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("FOUNDRY_CLIENT__URL", "localhost:8000", "FOUNDRY_CLIENT__URL must be like http://"),
        ("FOUNDRY_CLIENT__URL", "http://", "FOUNDRY_CLIENT__URL must be like http://"),
        ("FOUNDRY_RAY__PORT", "8000", "FOUNDRY_HTTP__PORT and FOUNDRY_RAY__PORT are both 8000"),
        ("FOUNDRY_SECURITY__PEPPER_FILE", "/nowhere", "the pepper file /nowhere cannot be read"),
        ("FOUNDRY_DATABASE__URL", "postgresql+asyncpg://h/db", "set FOUNDRY_SECURITY__PEPPER_FILE"),
        ("FOUNDRY_HTTP__PORT", "0", "FOUNDRY_HTTP__PORT must be at least 1"),
    ],
)
def test_what_cannot_work_fails_the_check(
    variable: str, value: str, says: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert run(["config", "check"]) == 2
    assert says in capsys.readouterr().err
