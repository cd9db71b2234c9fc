"""Files that commands read: what is wrong with one is said by its name and line."""

import io
import sys
from pathlib import Path

import pytest

from foundry.cli.files import (
    read_mapping,
    read_standard_input,
    read_text,
    refuse_unwritable,
    write_text,
)
from foundry.errors import Conflict, InvalidRequest, NotFound


def test_a_mapping_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1\n2: b\n")
    assert read_mapping(file) == {"a": 1, "2": "b"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds nothing: write `name: value` lines"),
        (b"[1]", "holds a list"),
        (b"plain", "holds a single value"),
        (b"a: [1", "is not YAML: see line 1, column 6"),
        (b"a: !!python/object:os.system x", "is not YAML: see line 1, column 4"),
        (b"\xff", "is no text: save it as UTF-8"),
        (b"[" * 100_000, "is not YAML"),
    ],
)
def test_what_is_no_mapping_is_refused_with_its_place(
    tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=says) as error:
        read_mapping(file)
    assert str(file) in error.value.message


def _pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_standard_input_is_read_to_its_end_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    _pipe(monkeypatch, "a: ü\n".encode())
    assert read_mapping(Path("-")) == {"a": "ü"}
    _pipe(monkeypatch, b"12345")
    assert read_standard_input(5) == "12345"
    _pipe(monkeypatch, b"123456")
    with pytest.raises(InvalidRequest) as error:
        read_standard_input(5)
    assert error.value.message == "standard input is longer than 5 characters"
    # What would remain after a cut is valid YAML, of something else.
    _pipe(monkeypatch, b"a: 1\n" * (8 * 2**20 // 5 + 1))
    with pytest.raises(InvalidRequest, match="standard input is longer than 8388608 characters"):
        read_mapping(Path("-"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff", "standard input is no text: send UTF-8"),
        (b"a: [1", "standard input is not YAML: see line 1, column 6"),
        (b"[1]", "standard input holds a list: write `name: value` lines"),
    ],
)
def test_standard_input_is_called_so(
    monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
) -> None:
    _pipe(monkeypatch, content)
    with pytest.raises(InvalidRequest) as error:
        read_mapping(Path("-"))
    assert error.value.message == says


def test_a_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InvalidRequest, match="standard input is closed: give a file"):
        read_text(Path("-"))


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        read_text(tmp_path / "none")
    with pytest.raises(InvalidRequest, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_what_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    refuse_unwritable(file, keep=True)
    write_text(file, "a: 1\n")
    refuse_unwritable(file)
    with pytest.raises(Conflict, match="exists: give another name"):
        refuse_unwritable(file, keep=True)
    with pytest.raises(InvalidRequest, match="is a directory"):
        refuse_unwritable(tmp_path)
    with pytest.raises(InvalidRequest, match="there is no directory"):
        refuse_unwritable(tmp_path / "no" / "a.yaml")
    with pytest.raises(InvalidRequest) as error:
        write_text(tmp_path, "a: 1\n")
    assert error.value.message == f"{tmp_path} cannot be written: Is a directory"
