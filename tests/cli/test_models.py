"""`foundry models`: what is asked of the server for what is typed, and what is shown."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from foundry.catalog.registry.domain import Kind as RegistryKind
from foundry.cli.main import run
from foundry.cli.models import Kind
from foundry.execution.jobs.sources import SCHEMES
from tests.cli.conftest import Server
from tests.sdk.answers import AT, JOB_ID, job

MODEL_ID = "0198f3c2-0000-7000-8000-00000000000a"
BASE_ID = "0198f3c2-0000-7000-8000-00000000000b"
DATA_ID = "0198f3c2-0000-7000-8000-00000000000c"


def alias(name: str, version: str) -> dict[str, object]:
    return {
        "name": name,
        "version_id": BASE_ID,
        "version": version,
        "row_version": 1,
        "protected": False,
        "updated_at": AT,
    }


def model(name: str = "support-bot", versions: int = 2) -> dict[str, object]:
    return {
        "id": MODEL_ID,
        "name": name,
        "kind": "adapter",
        "architecture": "LlamaForCausalLM",
        "parameter_count": 1000,
        "context_length": 2048,
        "licence": None,
        "tags": [],
        "created_by": "admin",
        "created_at": AT,
        "aliases": [alias("production", "0.1.0")] if versions else [],
        "latest_version": "0.2.0" if versions else None,
        "version_count": versions,
    }


def version(reference: str, version_id: str, **fields: object) -> dict[str, object]:
    name, _, number = reference.partition("@")
    return {
        "id": version_id,
        "model_id": MODEL_ID,
        "name": name,
        "version": number,
        "reference": reference,
        "kind": "base",
        "stage": "ready",
        "relation": "import",
        "digest": "d" * 64,
        "size_bytes": 1,
        "parent_version_id": None,
        "base_version_id": None,
        "job_id": None,
        "dataset_version_id": None,
        "architecture": None,
        "parameter_count": None,
        "context_length": None,
        "lora_rank": None,
        "lora_targets": None,
        "config_digest": None,
        "code_ref": None,
        "created_by": "admin",
        "created_at": AT,
    } | fields


def foundry(*arguments: str) -> int:
    return run(["models", *arguments])


def imported(server: type[Server]) -> Any:
    (path, body), *_ = server.asked
    assert path == "/jobs/import"
    return body


@pytest.fixture
def accepting(server: type[Server]) -> type[Server]:
    server.answers["/jobs/import"] = (201, job("QUEUED", kind="import"))
    return server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that commands are typed in, and everybody's home."""
    folder = tmp_path / "here"
    (folder / "SmolLM2-135M Instruct").mkdir(parents=True)
    (folder / "hub" / "models--ORG--Tiny-1B" / "snapshots" / "abc").mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize(
    ("typed", "name", "source"),
    [
        (["SmolLM2-135M Instruct"], "smollm2-135m-instruct", "SmolLM2-135M%20Instruct"),
        (["./SmolLM2-135M Instruct/"], "smollm2-135m-instruct", "SmolLM2-135M%20Instruct"),
        (["~/SmolLM2-135M Instruct"], "smollm2-135m-instruct", "SmolLM2-135M%20Instruct"),
        (["mine", "./SmolLM2-135M Instruct"], "mine", "SmolLM2-135M%20Instruct"),
        (["hub/models--ORG--Tiny-1B"], "tiny-1b", "hub/models--ORG--Tiny-1B"),
        (
            ["hub/models--ORG--Tiny-1B/snapshots/abc"],
            "tiny-1b",
            "hub/models--ORG--Tiny-1B/snapshots/abc",
        ),
    ],
)
def test_a_directory_is_told_whole(
    accepting: type[Server], here: Path, typed: list[str], name: str, source: str
) -> None:
    assert foundry("import", *typed, "--detach") == 0
    expected = {"name": name, "source": f"file://{here}/{source}", "base": None, "force": False}
    assert imported(accepting) == expected | {"priority": 0}


@pytest.mark.parametrize(
    ("typed", "name", "source"),
    [
        (["bundled:smollm2-135m"], "smollm2-135m", "bundled:smollm2-135m"),
        (["smollm2-135m", "bundled:smollm2-135m"], "smollm2-135m", "bundled:smollm2-135m"),
        (["hf:ORG/Tiny-1B@v2"], "tiny-1b", "hf:ORG/Tiny-1B@v2"),
        (["mine", "file:///models/x"], "mine", "file:///models/x"),
        (["file:///models/x"], "x", "file:///models/x"),
        (["/only/on/the/Server"], "server", "file:///only/on/the/Server"),
    ],
)
def test_other_sources_go_as_they_are(
    accepting: type[Server], here: Path, typed: list[str], name: str, source: str
) -> None:
    assert foundry("import", *typed, "-d", "--force") == 0
    assert (imported(accepting)["name"], imported(accepting)["source"]) == (name, source)
    assert imported(accepting)["force"] is True


def test_an_adapter_is_imported_with_the_base_that_is_named(
    accepting: type[Server], here: Path
) -> None:
    assert foundry("import", "SmolLM2-135M Instruct", "--base", "smol@0.1.0", "-d") == 0
    assert imported(accepting)["base"] == "smol@0.1.0"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["smollm2"], "there is no directory smollm2 here: name one, like ./my-model, or hf:"),
        (["mine", "./none"], "there is no directory ./none here"),
        (["/"], "/ gives the model no name"),
    ],
)
def test_a_source_that_is_none_is_refused_here(
    accepting: type[Server],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    typed: list[str],
    says: str,
) -> None:
    assert foundry("import", *typed) == 2
    assert says in capsys.readouterr().err
    assert accepting.asked == []


def test_a_list_shows_the_latest_version_and_the_aliases(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/models"] = (
        200,
        {"data": [model(), model("empty", 0)], "next_cursor": None},
    )
    assert foundry("list") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("name latest aliases versions kind architecture")
    assert lines[1].startswith("support-bot 0.2.0 production → 0.1.0 2 adapter LlamaForCausalLM")
    assert lines[2].startswith("empty -")
    assert foundry("list", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)[0] == model()


def test_lineage_shows_data_and_job(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    bot = version(
        "support-bot@0.1.0",
        MODEL_ID,
        relation="sft",
        job_id=JOB_ID,
        dataset_version_id=DATA_ID,
        created_at="2026-01-03T00:00:00Z",
    )
    edge = {"child_id": MODEL_ID, "parent_id": BASE_ID}
    answer = {
        "versions": [version("smol@0.1.0", BASE_ID), bot],
        "edges": [edge | {"relation": "sft"}, edge | {"relation": "base"}],
        "datasets": [{"id": DATA_ID, "reference": "support@1"}],
    }
    server.answers["/models/support-bot/versions/latest/lineage"] = (200, answer)
    assert foundry("lineage", "support-bot") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "version made by from data job",
        f"support-bot@0.1.0 sft smol@0.1.0 support@1 {JOB_ID}",
        "smol@0.1.0 import - - -",
    ]
    assert foundry("lineage", "support-bot", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["datasets"] == answer["datasets"]


def test_a_model_with_versions_is_not_deleted_by_its_name(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/models/support-bot"] = (200, model())
    assert foundry("delete", "support-bot", "--yes") == 6
    told = capsys.readouterr().err
    assert "support-bot has 2 versions: delete them with `foundry models delete" in told
    assert "support-bot --all-versions`" in told and "support-bot@VERSION`" in told


@pytest.mark.parametrize(
    ("versions", "options", "query"),
    [
        (0, [], "all_versions=false"),
        (2, ["--all-versions", "--reason", "old"], "all_versions=true&reason=old"),
    ],
)
def test_a_model_is_deleted(
    server: type[Server],
    capsys: pytest.CaptureFixture[str],
    versions: int,
    options: list[str],
    query: str,
) -> None:
    server.answers["/models/support-bot"] = [(200, model(versions=versions)), (204, None)]
    assert foundry("delete", "support-bot", "--yes", *options) == 0
    assert server.queries[-1] == query
    assert "support-bot" in capsys.readouterr().out


def test_the_last_version_leaves_an_empty_model(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/models/support-bot/versions/0.1.0"
    server.answers[path] = [(200, version("support-bot@0.1.0", BASE_ID)), (204, None)]
    server.answers["/models/support-bot"] = (200, model(versions=0))
    assert foundry("delete", "support-bot@0.1.0", "--yes") == 0
    told = capsys.readouterr()
    assert "support-bot has no version left: `foundry models delete support-bot`" in told.err
    assert "support-bot@0.1.0" in told.out


def test_all_versions_of_one_version_is_a_conflict(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    assert foundry("delete", "support-bot@0.1.0", "--all-versions", "--yes") == 6
    assert "--all-versions goes with support-bot alone" in capsys.readouterr().err
    assert server.asked == []


def test_a_version_to_deprecate_is_named(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    assert foundry("deprecate", "support-bot") == 2
    assert "say which version of support-bot: support-bot@1.2.3" in capsys.readouterr().err
    assert server.asked == []
    path = "/models/support-bot/versions/0.1.0"
    server.answers[path] = (200, version("support-bot@0.1.0", BASE_ID, stage="deprecated"))
    assert foundry("deprecate", "support-bot@0.1.0") == 0
    assert server.asked == [(path, {"deprecated": True})]


@pytest.mark.parametrize("text", ["support-bot", "support-bot@latest"])
def test_the_newest_version_is_read(server: type[Server], text: str) -> None:
    latest = "/models/support-bot/versions/latest"
    server.answers[f"{latest}/metrics"] = (200, {"data": []})
    server.answers[f"{latest}/artifacts"] = (200, {"data": []})
    assert foundry("metrics", text) == 0
    assert foundry("artifacts", text) == 0
    assert [path for path, _ in server.asked] == [f"{latest}/metrics", f"{latest}/artifacts"]


def test_the_help_names_every_scheme_of_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert foundry("import", "--help") == 0
    told = capsys.readouterr().out
    # Of a directory the scheme need not be typed.
    assert [scheme for scheme in SCHEMES if f"{scheme}:" not in told] == ["file"]
    assert "a directory" in told


def test_a_list_says_what_was_looked_for_and_is_not_there(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/models"] = (200, {"data": [], "next_cursor": None})
    assert foundry("list", "--kind", "merged") == 0
    assert foundry("list", "--prefix", "zzz") == 0
    assert foundry("list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "no merged model",
        "no model has a name that begins with zzz",
        "no models yet: foundry models import bundled:smollm2-135m",
    ]
    assert foundry("list", "--kind", "foo") == 2
    assert get_args(Kind) == get_args(RegistryKind)
