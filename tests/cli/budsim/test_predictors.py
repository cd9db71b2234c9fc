"""`foundry budsim fit`, `compare` and `models` without a stack."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from foundry.cli.budsim.predictors import advise_refit
from foundry.cli.main import run
from foundry.engines.budsim import fitting
from foundry.engines.budsim.packing import shipped_scores
from tests.cli.budsim.outcomes import make_outcome
from tests.cli.conftest import Server
from tests.sdk.answers import AT


def fitted(folder: Path, error: float) -> Path:
    folder.mkdir()
    cv = {"tpot": {"new GPU": error, "family": 9.8}, "names": ["a"]}
    (folder / "meta.json").write_text(json.dumps({"cv": cv}))
    return folder


def test_two_models_are_compared_split_by_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = fitted(tmp_path / "one", 15.0), fitted(tmp_path / "two", 13.5)
    assert run(["budsim", "compare", str(one), str(two), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"split": "tpot/family", "before": 9.8, "after": 9.8, "change": "+0.0%"},
        {"split": "tpot/new GPU", "before": 15.0, "after": 13.5, "change": "-10.0%"},
    ]


def test_a_fit_needs_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FOUNDRY_BUDSIM_DATA", raising=False)
    assert run(["budsim", "fit", str(tmp_path / "out")]) == 2
    assert "set FOUNDRY_BUDSIM_DATA: a directory with inferencex" in capsys.readouterr().err
    assert run(["budsim", "fit", str(tmp_path / "out"), "--data", str(tmp_path / "no")]) == 3


def test_a_fitted_model_is_compared_with_the_shipped_one_without_a_server(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workplace / "fitted"
    folder.mkdir()
    cv = {"tpot": {"model": shipped_scores()["tpot/model"] / 2}}
    (folder / "meta.json").write_text(json.dumps({"cv": cv}))
    assert run(["budsim", "compare", "0", "./fitted"]) == 0
    shown = capsys.readouterr().out
    assert "before, %" in shown
    assert "-50.0%" in shown


@pytest.mark.parametrize(
    ("meta", "code", "says"),
    [
        ('{"cv": {"tpot": {"elsewhere": 3}}}', 6, "no split of the cross-validation in common"),
        ('{"cv": {}}', 6, "there is nothing to compare"),
        ('{"cv": 3}', 2, "it has no cv"),
        ("[]", 2, "is no JSON object"),
        ("{", 2, "meta.json is not JSON: see line 1, column 2"),
    ],
)
def test_nothing_to_compare_is_said(
    workplace: Path, capsys: pytest.CaptureFixture[str], meta: str, code: int, says: str
) -> None:
    (workplace / "odd").mkdir()
    (workplace / "odd" / "meta.json").write_text(meta)
    assert run(["budsim", "compare", "0", "odd"]) == code
    assert says in capsys.readouterr().err


def test_a_model_is_not_compared_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["budsim", "compare", "0", "0"]) == 6
    assert "0 is compared with itself" in capsys.readouterr().err


def test_a_directory_without_a_model_is_no_version(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "empty").mkdir()
    assert run(["budsim", "compare", "0", "empty"]) == 3
    assert "empty holds no predictor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--version", "0"), 6, "version 0 is the shipped model"),
        (("--version", "My Model"), 2, "--version My Model: at most 64"),
    ],
)
def test_a_version_that_would_be_refused_later_is_refused_first(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    assert run(["budsim", "fit", "out", "--data", ".", *options]) == code
    assert says in capsys.readouterr().err
    assert not (workplace / "out").exists()


def test_the_advice_to_refit_can_be_typed_as_it_is(
    server: type[Server],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDRY_BUDSIM_DATA", str(tmp_path))
    page = {"data": [make_outcome()], "next_cursor": None, "staleness": [], "refit_due": True}
    server.answers["/budsim/outcomes"] = (200, page)
    seen: dict[str, Any] = {}

    class Found:
        card: ClassVar = {"site_cv": {"a deployment": [20.0, 15.0]}}

    def fit(*arguments: object, **options: object) -> Found:
        seen["version"], seen["rows"] = arguments[2], options["outcomes"]
        return Found()

    monkeypatch.setattr(fitting, "fit", fit)
    command = advise_refit()
    assert command == "foundry budsim fit ./fitted --outcomes"
    assert run(command.split()[1:]) == 0
    shown = capsys.readouterr()
    assert seen["version"].startswith("site-20")
    assert len(seen["rows"]) == 1
    assert "-25.0%" in shown.out
    assert (
        "next: foundry budsim compare 0 fitted\n      foundry budsim register fitted" in shown.err
    )


def test_without_data_the_advice_names_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOUNDRY_BUDSIM_DATA", raising=False)
    assert "--data DIRECTORY, with inferencex_silicon.csv.gz and llm_pilot.csv.gz" in advise_refit()


def test_windows_that_teach_nothing_are_no_reason_to_fit(
    server: type[Server], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = {
        "data": [make_outcome(point={})],
        "next_cursor": None,
        "staleness": [],
        "refit_due": False,
    }
    server.answers["/budsim/outcomes"] = (200, page)
    options = ["--data", str(tmp_path), "--outcomes"]
    assert run(["budsim", "fit", str(tmp_path / "out"), *options]) == 6
    assert "none of its 1 windows is complete" in capsys.readouterr().err


def test_the_shipped_version_has_no_date_of_1970(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    row: dict[str, Any] = {
        "version": "0",
        "digest": "",
        "status": "active",
        "cv": {},
        "reasons": [],
        "created_at": "1970-01-01T00:00:00Z",
        "promoted_at": None,
    }
    page: dict[str, Any] = {
        "data": [],
        "next_cursor": None,
        "staleness": [],
        "refit_due": True,
    }
    server.answers |= {
        "/budsim/models": (200, {"data": [row, {**row, "version": "2", "created_at": AT}]}),
        "/budsim/outcomes": (200, page),
    }
    assert run(["budsim", "models"]) == 0
    shown = capsys.readouterr()
    assert "with Foundry" in shown.out
    assert "1970" not in shown.out
    assert "a refit is due: foundry budsim fit ./fitted --outcomes" in shown.err
