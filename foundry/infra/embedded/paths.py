"""Where one stack keeps its files: FOUNDRY_HOME and one short directory under /tmp."""

import errno
import hashlib
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from foundry.errors import DiskFull, SetupError

# Not tempfile.gettempdir(): every process must derive the same path whatever its TMPDIR is.
_RUNTIME_ROOT = Path("/tmp")
_PRIVATE = 0o700
_SEARCHABLE = 0o711
_FOLDERS = ("objects", "cache", "logs", "run", "secrets")
_MIN_FREE_BYTES = 512 * 2**20


def runtime_dir(home: Path) -> Path:
    """The stack's sockets and Ray session: Unix socket paths end at 107 bytes, homes do not."""
    digest = hashlib.sha256(os.fsencode(home.absolute())).hexdigest()
    return _RUNTIME_ROOT / f"fdry-{digest[:8]}"


def ensure_runtime_dir(home: Path) -> Path:
    """Create it, refusing one that somebody else put there.

    Raises:
        SetupError: the path exists and is not our own directory.
    """
    path = runtime_dir(home)
    with suppress(FileExistsError):
        path.mkdir(mode=_SEARCHABLE)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise SetupError(
            f"{path} belongs to another user: remove it or choose another FOUNDRY_HOME"
        )
    path.chmod(_SEARCHABLE)
    return path


def ensure_home(home: Path) -> None:
    """Create the home's folders.

    Raises:
        SetupError: the home cannot be written.
        DiskFull: less than 512 MiB are free on its file system.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        # The home itself is searchable, not listable: PostgreSQL runs as another user under root.
        home.chmod(_SEARCHABLE)
        for name in _FOLDERS:
            (home / name).mkdir(exist_ok=True)
            (home / name).chmod(_PRIVATE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(disk_full_message(home)) from error
        raise SetupError(
            f"{home} cannot be written ({error.strerror}): set FOUNDRY_HOME to a folder of yours"
        ) from error
    if shutil.disk_usage(home).free < _MIN_FREE_BYTES:
        raise DiskFull(disk_full_message(home))


def disk_full_message(home: Path) -> str:
    return (
        f"no space is left on the disk that holds {home}: "
        "free at least 5 GiB there or set FOUNDRY_HOME to another disk"
    )
