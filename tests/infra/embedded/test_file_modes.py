import os
from pathlib import Path

import pytest

from foundry.infra.embedded.file_modes import (
    OpenPath,
    close_owned_paths,
    describe_paths,
    find_open_paths,
)
from foundry.infra.embedded.paths import home_mode


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


_FOLDERS = ("logs", "secrets", "objects", "objects/ab", "cache", "notes")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """As an earlier release, a copy and a user have left it."""
    made = {
        "logs": 0o755,
        "logs/serve.log": 0o644,
        "secrets": 0o700,
        "secrets/pepper": 0o440,
        "objects": 0o700,
        "objects/ab": 0o755,
        "objects/ab/blob": 0o600,
        "cache": 0o700,
        "cache/tool": 0o755,
        "notes": 0o755,
        "notes/diary": 0o644,
    }
    for name in made:
        path = tmp_path / name
        path.mkdir() if name in _FOLDERS else path.write_text("x")
    (tmp_path / "logs" / "elsewhere").symlink_to("/etc/passwd")
    for name, mode in made.items():
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(home_mode())
    return tmp_path


def test_what_foundry_owns_is_closed_and_keeps_its_owners_rights(home: Path) -> None:
    closed = close_owned_paths(home)
    names = ["cache/tool", "logs", "logs/serve.log", "objects/ab", "secrets/pepper"]
    assert closed == [home / name for name in names]
    assert [_mode(path) for path in closed] == [0o700, 0o700, 0o600, 0o700, 0o400]
    assert close_owned_paths(home) == []


def test_the_rest_is_the_users_and_only_named(home: Path) -> None:
    close_owned_paths(home)
    # Under root the home itself lets others pass.
    reachable = home_mode() == 0o711
    assert find_open_paths(home) == [
        OpenPath(home / "notes", 0o755, owned=False, reachable=reachable),
        OpenPath(home / "notes" / "diary", 0o644, owned=False, reachable=reachable),
    ]
    assert _mode(home / "notes" / "diary") == 0o644


def test_the_home_is_closed_first(home: Path) -> None:
    home.chmod(0o755)
    closed = close_owned_paths(home)
    assert closed[:2] == [home, home / "cache" / "tool"]
    assert _mode(home) == home_mode()
    assert describe_paths(home, closed) == (
        f"6 files and folders: {home}, cache/tool, logs, logs/serve.log, objects/ab and 1 more"
    )
    assert describe_paths(home, closed[1:2]) == "cache/tool"


def test_behind_a_closed_folder_nothing_is_reachable(home: Path) -> None:
    home.chmod(0o711)
    reachable = {found.path.name: found.reachable for found in find_open_paths(home)}
    assert reachable == {
        "logs": True,
        "serve.log": True,
        "pepper": False,
        "ab": False,
        "tool": False,
        "notes": True,
        "diary": True,
    }
    home.chmod(0o700)
    assert not any(found.reachable for found in find_open_paths(home))


def test_another_accounts_files_are_left_to_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert close_owned_paths(home) == []
    assert _mode(home / "logs") == 0o755


def test_a_home_that_is_not_there_has_nothing_open(tmp_path: Path) -> None:
    assert find_open_paths(tmp_path / "none") == []
