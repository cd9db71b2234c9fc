"""The lock under which one command at a time works on a home."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foundry.errors import AlreadyRunning


@contextmanager
def lock_home(home: Path, doing: str, name: str = "lock") -> Iterator[None]:
    """Only one process at a time does this in a home.

    Args:
        doing: the command as a user knows it, for the message.
        name: of the lock file under `run/`; different names do not exclude each other.

    Raises:
        AlreadyRunning: another process is at it.
    """
    path = home / "run" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            raise AlreadyRunning(
                f"{holder or 'another command'} is at work in {home}: wait until it ends, "
                "or use another FOUNDRY_HOME for a second stack",
                holder=holder,
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{doing} (pid {os.getpid()})".encode(), 0)
        yield
    finally:
        os.close(handle)
