"""`foundry datasets` as a user sees it; the server gives fixed answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from foundry.cli.datasets import commands
from foundry.cli.datasets.rows import describe_row
from foundry.cli.main import run
from foundry.sdk import Foundry
from tests.cli.conftest import Server

ADDED = {
    "id": "0198f3c2-0000-7000-8000-000000000001",
    "name": "support",
    "number": 2,
    "reference": "support@2",
    "digest": "0" * 64,
    "kind": "chat",
    "train_rows": 36,
    "eval_rows": 4,
    "duplicate_rows": 0,
    "bad_rows": 0,
    "options": {"filename": "x.jsonl", "eval_fraction": 0.1, "seed": 0},
    "files": [],
    "created_by": "admin",
    "created_at": "2026-11-27T10:00:00Z",
    "created": True,
}
VERSIONS = "/datasets/support/versions"


def version(number: int, **fields: object) -> dict[str, object]:
    return {**ADDED, "number": number, "reference": f"support@{number}", **fields}


def rows_file(folder: Path, size: int = 0) -> Path:
    path = folder / "x.jsonl"
    row = json.dumps({"prompt": "p", "completion": "c" + "x" * size}) + "\n"
    path.write_text(row)
    return path


def test_the_options_are_readable(server: type[Server], capsys: pytest.CaptureFixture[str]) -> None:
    server.answers[f"{VERSIONS}/2"] = (200, ADDED)
    assert run(["datasets", "show", "support@2"]) == 0
    lines = dict(line.strip().split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["options"] == "eval_fraction=0.1, seed=0"
    assert lines["file"] == "x.jsonl"
    assert "deleted" not in lines


def test_a_tombstone_says_who_and_why(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = version(2, deleted_at="2026-11-27T11:00:00Z", deleted_by="bob", delete_reason="labels")
    server.answers[f"{VERSIONS}/2"] = (200, gone)
    assert run(["datasets", "show", "support@2"]) == 0
    out = capsys.readouterr().out
    assert "bob" in out and "labels" in out


def test_a_list_shows_rows_and_versions(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    fields = ("number", "reference", "kind", "train_rows", "eval_rows", "created_at")
    latest = {name: ADDED[name] for name in fields}
    head = {name: ADDED[name] for name in ("id", "name", "created_by", "created_at")}
    listed = {**head, "versions": 2, "latest": latest}
    server.answers["/datasets"] = (200, {"data": [listed], "next_cursor": None})
    assert run(["datasets", "list"]) == 0
    titles, row = capsys.readouterr().out.splitlines()
    assert titles.split()[:4] == ["name", "latest", "train", "rows"]
    assert row.split()[:6] == ["support", "support@2", "36", "4", "2", "chat"]
    assert run(["datasets", "list", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [listed]
    server.answers["/datasets"] = (200, {"data": [listed, listed], "next_cursor": None})
    assert run(["datasets", "list", "--limit", "1"]) == 0
    assert "the first 1" in capsys.readouterr().err


def test_adding_the_same_again_says_so(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[VERSIONS] = (200, {**ADDED, "created": False, "eval_rows": 0})
    assert run(["datasets", "add", "support", str(rows_file(tmp_path)), "-o", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["reference"] == "support@2"
    assert "support@2 holds the same rows, split alike, since 2026-11-27 10:00" in captured.err
    assert "no rows are held out" in captured.err


def test_a_large_upload_tells_how_far_it_is(
    server: type[Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "_LARGE_BYTES", 100)
    server.answers[VERSIONS] = (201, ADDED)
    assert run(["datasets", "add", "support", str(rows_file(tmp_path, 300_000))]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "uploading x.jsonl of 0 MB",
        "checking the rows",
    ]
    sent: list[int] = []
    with Foundry() as client:
        client.datasets.add("support", tmp_path / "x.jsonl", on_sent=sent.append)
    assert sent == sorted(sent)
    assert sent[-1] == (tmp_path / "x.jsonl").stat().st_size


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", "question,answer\na,b\n", "is a table"),
        ("a.jsonl", '{"instruction":"a","input":"","output":"b"}\n', "rows of another format"),
        ("a.json", '[{"prompt":"a","completion":"b"}]', "is one JSON array"),
    ],
)
def test_other_formats_are_refused_before_they_are_sent(
    server: type[Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str,
    says: str,
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert run(["datasets", "add", "support", str(path)]) == 2
    err = capsys.readouterr().err
    assert says in err
    # In one piece, with the path as it was typed.
    assert f" < {path} > {path.with_suffix('')}" in err.replace("\n", "")
    assert server.asked == []


def test_a_directory_is_refused(
    server: type[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rows_file(tmp_path)
    assert run(["datasets", "add", "support", str(tmp_path)]) == 2
    assert f"a dataset is one file, like {path}" in capsys.readouterr().err
    assert run(["datasets", "add", "support", str(tmp_path / "missing.jsonl")]) == 3


def test_a_version_is_deleted_by_number(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[f"{VERSIONS}/latest"] = (200, version(3))
    server.answers[f"{VERSIONS}/3"] = (200, None)
    command = ["datasets", "delete", "support@latest", "--yes", "--reason", "labels", "--force"]
    assert run(command) == 0
    assert "support@3" in capsys.readouterr().out
    assert server.queries[-1] == "force=true&reason=labels"


def test_a_whole_dataset_is_asked_about(
    server: type[Server], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def confirm(text: str, **options: Any) -> bool:
        asked.append(text)
        return False

    monkeypatch.setattr("typer.confirm", confirm)
    listed = {"data": [version(2), version(1)], "next_cursor": None}
    server.answers[VERSIONS] = (200, listed)
    server.answers["/datasets/support"] = (200, None)
    assert run(["datasets", "delete", "support"]) == 2
    assert asked == []
    assert capsys.readouterr().err == (
        "error: there is no terminal to ask on: delete all 2 versions of support? --yes does it\n"
    )
    server.asked.clear()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert run(["datasets", "delete", "support"]) == 1
    assert capsys.readouterr().err == "nothing was changed\n"
    assert asked == ["delete all 2 versions of support?"]
    assert [path for path, _ in server.asked] == [VERSIONS]
    assert run(["datasets", "delete", "support", "-y"]) == 0
    assert [path for path, _ in server.asked][-1] == "/datasets/support"
    server.answers[VERSIONS] = (200, {"data": [], "next_cursor": None})
    assert run(["datasets", "delete", "support", "-y"]) == 3
    assert "deleted already" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["@1", "a@", "a@0", "a@x", "a@1.0", "a@²"])
def test_what_is_no_reference(
    server: type[Server], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    for command in ("show", "rows", "delete"):
        assert run(["datasets", command, text]) == 2
        assert "use name, name@1 or name@latest" in capsys.readouterr().err
    assert server.asked == []


@pytest.mark.parametrize("text", ["support", "support@latest"])
def test_the_newest_version_is_read(
    server: type[Server], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    server.answers[f"{VERSIONS}/latest"] = (200, version(3))
    server.answers[f"{VERSIONS}/latest/rows"] = (200, {"data": []})
    assert run(["datasets", "show", text, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["reference"] == "support@3"
    assert run(["datasets", "rows", text, "-o", "json"]) == 0


def test_rows_are_read_turn_by_turn(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"messages": [{"role": "user", "content": "a\nb"}, {"role": "assistant", "content": "c"}]}
    server.answers[f"{VERSIONS}/latest/rows"] = (200, {"data": [row, row]})
    assert run(["datasets", "rows", "support"]) == 0
    block = "user: a\n    b\nassistant: c\n"
    assert capsys.readouterr().out == f"row 1\n{block}\nrow 2\n{block}"
    server.answers[f"{VERSIONS}/latest/rows"] = (200, {"data": []})
    assert run(["datasets", "rows", "support", "--split", "eval"]) == 0
    assert capsys.readouterr().out == "the eval split of support is empty\n"


def test_calls_are_readable() -> None:
    call = {"id": "c1", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
    row: dict[str, object] = {
        "tools": [{"type": "function", "function": {"name": "weather"}}, {"name": "x"}, 7],
        "messages": [
            {"role": "user", "content": "hi\x1b[2J"},
            {"role": "assistant", "content": None, "tool_calls": [call, {"function": 3}]},
            {"role": "assistant", "content": "no", "weight": 0},
            3,
        ],
    }
    assert describe_row(row).splitlines() == [
        "tools: weather, x, 7",
        "user: hi\\x1b[2J",
        'assistant: calls weather({"city": "Köln"})',
        "assistant: calls {'function': 3}()",
        "assistant (not trained): no",
        "3",
    ]
    assert describe_row({"prompt": "a", "completion": "b"}) == "prompt: a\ncompletion: b"


def test_reasoning_parts_and_weights_are_readable() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    reply = {"role": "assistant", "content": "2", "reasoning_content": "add", "weight": 0.5}
    assert describe_row({"messages": [{"role": "user", "content": parts}, reply]}).splitlines() == [
        "user: a",
        "    b",
        "assistant (weight 0.5): thinks: add",
        "assistant (weight 0.5): 2",
    ]
