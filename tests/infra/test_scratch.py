"""Scratch directories: gone after use, and after the death of who used them."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from foundry.config import child_environment
from foundry.infra.scratch import remove_abandoned_scratch, scratch_directory

PREFIX = f"fdry-scratch@{socket.gethostname()}@"

_USER = """
import sys, time
from foundry.infra.scratch import scratch_directory
with scratch_directory("upload") as folder:
    (folder / "body").write_bytes(b"x" * 1000)
    print(folder.name, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_directory_is_private_and_goes_with_its_block(folder: Path) -> None:
    with scratch_directory("rows") as made:
        (made / "shard").touch()
        assert made.parent == folder
        assert made.name.startswith(f"fdry-scratch@{socket.gethostname()}@rows-")
        assert made.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_is_used_stays(folder: Path) -> None:
    environment = child_environment(TMPDIR=str(folder))
    with (
        scratch_directory("rows") as used,
        subprocess.Popen(
            [sys.executable, "-c", _USER], stdout=subprocess.PIPE, env=environment
        ) as user,
    ):
        assert user.stdout is not None
        name = user.stdout.readline().decode().strip()
        later = time.time() + 3600
        assert remove_abandoned_scratch(later) == []
        user.send_signal(signal.SIGKILL)
        user.wait()
        assert (folder / name / "body").is_file()
        assert remove_abandoned_scratch(later) == [name]
        assert list(folder.iterdir()) == [used]


def test_a_young_one_may_be_locked_in_a_moment(folder: Path) -> None:
    young = folder / f"{PREFIX}upload-x"
    young.mkdir()
    made_at = young.stat().st_mtime
    assert remove_abandoned_scratch(made_at + 59) == []
    assert remove_abandoned_scratch(made_at + 60) == [young.name]


def test_another_nodes_stay_where_nodes_share_a_folder(folder: Path) -> None:
    (folder / "fdry-scratch@another@upload-x").mkdir()
    (folder / f"{PREFIX.removesuffix('@')}-2@upload-x").mkdir()
    assert remove_abandoned_scratch(time.time() + 3600) == []


def test_without_locks_it_is_used_and_nothing_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_directory("rows") as used:
        assert remove_abandoned_scratch(time.time() + 3600) == []
        assert used.is_dir()
    assert not used.exists()


def test_neither_links_nor_what_has_another_name_are_touched(folder: Path) -> None:
    precious = folder / "precious"
    precious.mkdir()
    (folder / f"{PREFIX}link").symlink_to(precious)
    (folder / f"{PREFIX}file").touch()
    assert remove_abandoned_scratch(time.time() + 3600) == []
    assert len(list(folder.iterdir())) == 3


def test_another_accounts_directory_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = folder / f"{PREFIX}upload-theirs"
    theirs.mkdir()
    later = time.time() + 3600
    with monkeypatch.context() as another:
        another.setattr(os, "geteuid", lambda: theirs.stat().st_uid + 1)
        assert remove_abandoned_scratch(later) == []
    assert remove_abandoned_scratch(later) == [theirs.name]
