"""Directories that appear whole or not at all, even through a crash or a full disk."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from foundry.errors import DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT)
STAGING_PREFIX = ".partial-"


@contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A staging directory that becomes `target` (replacing it) when the block succeeds.

    Everything is flushed to the device before the rename, and the rename before returning.

    Raises:
        DiskFull: no space left; nothing remains of the attempt.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=target.parent))
    except OSError as error:
        raise _explained(error, target) from error
    try:
        yield staging
        staging.chmod(0o755)
        for path in sorted(staging.rglob("*")):
            flush(path)
        flush(staging)
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
        flush(target.parent)
    except (OSError, SafetensorError) as error:
        raise _explained(error, target) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(parent: Path) -> None:
    """Sweep what a killed process left."""
    for path in parent.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def replace_json(path: Path, document: object) -> None:
    """Write a small file at once: a reader sees it whole or not at all. Raises DiskFull."""
    staging = path.with_name(f"{STAGING_PREFIX}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(staging, document)
        staging.replace(path)
    except OSError as error:
        raise _explained(error, path) from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Bytes depend on names and values only: safetensors stores no time."""
    contiguous: dict[str, Any] = {
        name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())
    }
    save_file(contiguous, path, metadata={"format": "pt"})


def _explained(error: OSError | SafetensorError, target: Path) -> Exception:
    # The Rust writer reports an exhausted disk by text only.
    full = f"os error {errno.ENOSPC}" in str(error)
    if (isinstance(error, OSError) and error.errno in _FULL) or full:
        return DiskFull(
            f"no space left to write {target.name} under {target.parent}: free some and resume"
        )
    return error
