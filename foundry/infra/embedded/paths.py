"""Where one stack keeps its files: FOUNDRY_HOME and one short directory under /tmp."""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foundry.errors import DiskFull, SetupError
from foundry.validation import describe_os_error

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


def ray_dir(home: Path) -> Path:
    """Ray's session. Ray opens this folder to everybody, so the one above is private."""
    return runtime_dir(home) / "own" / "ray"


def serve_dir(home: Path) -> Path:
    """Configuration and sockets of HAProxy, whose own limit for a socket's path is 97 bytes."""
    return runtime_dir(home) / "serve"


def engine_dir(home: Path) -> Path:
    """Sockets between the processes of an engine: one that is killed leaves its own behind."""
    return runtime_dir(home) / "own" / "engine"


def ensure_runtime_dir(home: Path) -> Path:
    """Create it, refusing one that somebody else put there.

    Raises:
        SetupError: the path exists and is not our own directory.
    """
    path = runtime_dir(home)
    with suppress(FileExistsError):
        path.mkdir(mode=_PRIVATE)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise SetupError(
            f"{path} belongs to another user: remove it or choose another FOUNDRY_HOME"
        )
    path.chmod(home_mode())
    for folder in (ray_dir(home).parent, serve_dir(home), engine_dir(home)):
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        folder.chmod(_PRIVATE)
    return path


def ensure_home(home: Path) -> None:
    """Create the home's folders.

    Raises:
        SetupError: the home cannot be written.
        DiskFull: less than 512 MiB are free on its file system.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(home_mode())
        for name in _FOLDERS:
            (home / name).mkdir(exist_ok=True)
            (home / name).chmod(_PRIVATE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFull(disk_full_message(home)) from error
        raise SetupError(
            f"{home} cannot be written ({describe_os_error(error)}): set FOUNDRY_HOME to a "
            "folder of yours"
        ) from error
    if shutil.disk_usage(home).free < _MIN_FREE_BYTES:
        raise DiskFull(disk_full_message(home))


@contextmanager
def restrict_new_files() -> Iterator[None]:
    """What this process and its children create is for their own account only."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def close_to_others(folder: Path) -> None:
    """Take every right of others from what a copy brought along."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(_PRIVATE if path.is_dir() else 0o600)


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file atomically; only its owner may read it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(handle, "w") as writer:
            writer.write(text)
            writer.flush()
            os.fsync(writer.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def home_mode() -> int:
    """The mode of a home: under root PostgreSQL's account must pass through it, never list it."""
    return _SEARCHABLE if os.geteuid() == 0 else _PRIVATE


def disk_full_message(home: Path) -> str:
    """What a user of a full disk is told."""
    return (
        f"no space is left on the disk that holds {home}: "
        "free at least 5 GiB there or set FOUNDRY_HOME to another disk"
    )
