"""The pepper: a server-side secret outside the database that keys are checked with."""

import os
import secrets
from pathlib import Path

from foundry.config import Settings
from foundry.errors import SetupError
from foundry.validation import describe_os_error

_BYTES = 32


def pepper_path(settings: Settings) -> Path:
    """Where this installation's pepper is.

    Raises:
        SetupError: the database is one that other machines may use, and the pepper this machine's.
    """
    if settings.security.pepper_file is not None:
        return settings.security.pepper_file
    own = settings.home / "secrets" / "pepper"
    if settings.database.url is not None:
        raise SetupError(
            "set FOUNDRY_SECURITY__PEPPER_FILE to a file of 32 random bytes, the same on every "
            "node: the database is external, and its keys must not depend on one machine's home "
            f"(if keys were made with {own}, set it to a copy of that)"
        )
    return own


def load_pepper(settings: Settings) -> bytes:
    """The pepper of this installation.

    Raises:
        SetupError: it is not set, missing or unsafe.
    """
    return read_pepper(pepper_path(settings))


def prepare_pepper(settings: Settings) -> bytes:
    """The pepper of this installation, made first for a new home with its own database.

    Raises:
        SetupError: it is not set, missing or unsafe.
    """
    path = pepper_path(settings)
    return ensure_pepper(path) if settings.database.url is None else read_pepper(path)


def read_pepper(path: Path) -> bytes:
    """Read the pepper.

    Raises:
        SetupError: it is missing, readable by others, or not 32 bytes.
    """
    try:
        mode = path.stat().st_mode
        pepper = path.read_bytes()
    except OSError as error:
        raise SetupError(
            f"the pepper file {path} cannot be read ({describe_os_error(error)}): run "
            "`foundry up`, or copy the file that FOUNDRY_SECURITY__PEPPER_FILE names to this node"
        ) from error
    if mode & 0o077:
        raise SetupError(f"{path} is readable by others: run `chmod 400 {path}`")
    if len(pepper) != _BYTES:
        raise SetupError(f"{path} holds {len(pepper)} bytes, not {_BYTES}: restore it from backup")
    return pepper


def ensure_pepper(path: Path) -> bytes:
    """Read the pepper, and make it first if there is none; two processes end with the same one."""
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
