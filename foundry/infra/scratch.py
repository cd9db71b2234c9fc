"""Directories for files on their way; what a killed process leaves there, others remove.

A process holds a lock on its directory, and the kernel lets go of it when the process dies. So
nobody has to guess by its age whether a directory is still in use. Where the file system knows no
locks, nothing is removed. Locks are the machine's own, so the name says whose a directory is: some
sites share one TMPDIR between nodes.
"""

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# No host's name contains the last character.
_PREFIX = f"fdry-scratch@{socket.gethostname()}@"
# Between its making and its lock: microseconds, and more on a machine that swaps.
_YOUNG_S = 60.0


@contextmanager
def scratch_directory(purpose: str) -> Iterator[Path]:
    """A private directory of this process, removed at the end of the block.

    Args:
        purpose: a part of its name, for who finds it on a full disk.
    """
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{purpose}-") as name:
        handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                # Never waits, for callers on an event loop: nobody else locks a young one.
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield Path(name)
        finally:
            os.close(handle)


def remove_abandoned_scratch(now: float) -> list[str]:
    """Remove the directories of this account that no living process uses. Returns their names.

    Args:
        now: a Unix time.
    """
    found = sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"))
    return [path.name for path in found if _remove_if_abandoned(path, now)]


def _remove_if_abandoned(path: Path, now: float) -> bool:
    try:
        # Other accounts may put links there: none is followed.
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid() or now - found.st_mtime < _YOUNG_S:
            return False
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()
    except OSError:
        # It is in use, or nobody can say whether it is.
        return False
    finally:
        os.close(handle)
