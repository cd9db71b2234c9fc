"""The pepper's file."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foundry.errors import SetupError
from foundry.governance.identity.pepper import ensure_pepper, pepper_path, read_pepper


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    path = pepper_path(tmp_path, None)
    assert path == tmp_path / "secrets" / "pepper"
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(ensure_pepper, [path] * 8))
    assert len(made) == 1
    assert len(made.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert [each.name for each in path.parent.iterdir()] == ["pepper"]


def test_a_missing_one_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="run `foundry up`"):
        read_pepper(tmp_path / "pepper")


def test_a_readable_or_short_one_is_invalid_key_error(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    path.write_bytes(bytes(32))
    path.chmod(0o644)
    with pytest.raises(SetupError, match="chmod 400"):
        read_pepper(path)
    path.write_bytes(bytes(31))
    path.chmod(0o400)
    with pytest.raises(SetupError, match="31 bytes"):
        read_pepper(path)
