import json
from pathlib import Path

import pytest

from foundry.cli.chat import history
from foundry.cli.chat.history import TypedLines


@pytest.fixture(autouse=True)
def editor() -> None:
    readline = pytest.importorskip("readline")
    readline.clear_history()


def list_history() -> list[str]:
    import readline

    return [
        readline.get_history_item(at + 1) for at in range(readline.get_current_history_length())
    ]


def test_a_long_file_is_cut_back_to_its_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_MAX_FILE_BYTES", 100)
    monkeypatch.setattr(history, "_LINES", 3)
    file = tmp_path / "lines"
    file.write_text("".join(f'"{number}"\n' for number in range(100)))
    TypedLines(file)
    assert list_history() == ["97", "98", "99"]
    assert file.read_text() == '"97"\n"98"\n"99"\n'
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


def test_lines_are_kept_as_they_were_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new folder" / "lines"
    typed = iter(["two\nlines ü", " ", "x" * 10_001, "last", "last"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    lines = TypedLines(file)
    for _ in range(5):
        lines.read_line("> ")
    assert [json.loads(row) for row in file.read_text().splitlines()] == ["two\nlines ü", "last"]
    TypedLines(file)
    assert list_history() == ["two\nlines ü", "last"]


def test_where_nothing_can_be_written_lines_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("builtins.input", lambda prompt: "hello")
    assert TypedLines(tmp_path / "file" / "lines").read_line("> ") == "hello"
