"""Files that commands read: what is wrong with one is said by its name and line."""

from pathlib import Path

import pytest

from foundry.cli.files import read_mapping, read_text, refuse_unwritable, write_text
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
        (b"a: [1", "line 1, column 6: not YAML"),
        (b"a: !!python/object:os.system x", "line 1, column 4: not YAML"),
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
