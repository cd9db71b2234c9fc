"""The pepper: a server-side secret outside the database that keys are checked with."""

import os
import secrets
from pathlib import Path

from foundry.errors import SetupError

_BYTES = 32


def pepper_path(home: Path, configured: Path | None) -> Path:
    return configured if configured is not None else home / "secrets" / "pepper"


def read_pepper(path: Path) -> bytes:
    """Raises SetupError: it is missing, readable by others, or not 32 bytes."""
    try:
        mode = path.stat().st_mode
        pepper = path.read_bytes()
    except OSError as error:
        raise SetupError(
            f"the pepper file {path} cannot be read ({error.strerror}): run `foundry up`, or set "
            "FOUNDRY_SECURITY__PEPPER_FILE to the file the keys were made with"
        ) from error
    if mode & 0o077:
        raise SetupError(f"{path} is readable by others: run `chmod 400 {path}`")
    if len(pepper) != _BYTES:
        raise SetupError(f"{path} holds {len(pepper)} bytes, not {_BYTES}: restore it from backup")
    return pepper


def ensure_pepper(path: Path) -> bytes:
    """Read it, making it first if there is none; two processes end with the same one."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        try:
            os.write(handle, secrets.token_bytes(_BYTES))
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            # A link, unlike a rename, does not replace what another process made meanwhile.
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    return read_pepper(path)
