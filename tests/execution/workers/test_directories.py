"""Work directories that go, and those that stay."""

import os
import socket
import tempfile
from pathlib import Path
from uuid import UUID

import pytest

from foundry.execution.workers.directories import (
    attempt_directory,
    list_leftovers,
    remove_work_directories,
)
from foundry.execution.workers.node_cleaning import clean_node

ACTIVE, ENDED, RESUMED = UUID(int=1), UUID(int=2), UUID(int=3)
NOW = 1_000_000.0


def age(path: Path, seconds: float) -> None:
    os.utime(path, (NOW - seconds, NOW - seconds))


def lay_out(home: Path) -> None:
    """Three jobs; the third was written to a moment ago."""
    for job, seconds in ((ACTIVE, 7200), (ENDED, 7200), (RESUMED, 60)):
        folder = attempt_directory(home, job, 3)
        folder.mkdir(parents=True)
        age(folder, seconds)
        age(folder.parent, 7200)


def test_a_node_keeps_what_runs_and_what_is_young(tmp_path: Path) -> None:
    lay_out(tmp_path)
    for job in (ACTIVE, ENDED):
        fetched = tmp_path / f"import-{job}"
        fetched.mkdir()
        age(fetched, 3600)
    assert remove_work_directories(tmp_path, {ACTIVE}, NOW) == [f"import-{ENDED}", str(ENDED)]
    assert (tmp_path / f"import-{ACTIVE}").is_dir(), "its files may be read for hours"
    kept = sorted(path.name for path in (tmp_path / "jobs").iterdir())
    assert kept == [str(ACTIVE), str(RESUMED)]


def test_what_a_killed_removal_left_goes(tmp_path: Path) -> None:
    for path in (tmp_path / "jobs" / f".{ENDED}.deleted", tmp_path / ".import-a.deleted"):
        (path / "sub").mkdir(parents=True)
    assert remove_work_directories(tmp_path, (), NOW) == []
    assert [path.name for path in tmp_path.rglob("*")] == ["jobs"]


def test_nothing_is_listed_where_nothing_is(tmp_path: Path) -> None:
    assert list_leftovers(tmp_path / "nowhere", (), NOW) == []


def test_a_node_is_cleaned_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    cache = tmp_path / "cache"
    version = "aa" * 32
    (cache / version).mkdir(parents=True)
    (cache / version / "model").write_bytes(b"x")
    age(cache / version, 7200)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    abandoned = tmp_path / "tmp" / f"fdry-scratch@{socket.gethostname()}@upload-x"
    abandoned.mkdir(parents=True)
    age(abandoned, 7200)
    removed = clean_node(tmp_path, cache, {ACTIVE, RESUMED}, 0)
    assert removed == [str(ENDED), abandoned.name, version]
