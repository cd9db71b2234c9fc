"""Environments of the tools that benchmarks compare with: one per set of pins, never ours."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

PEERS = Path(__file__).parent


def find_peer(cache: Path, name: str) -> Path | None:
    """The Python of an environment that was made from `<name>.txt`; None: there is none."""
    target = _target(cache, name)
    return target / "bin" / "python" if (target / "ready").is_file() else None


def install_peer(cache: Path, name: str) -> Path:
    """The same, made if it is not there."""
    if (found := find_peer(cache, name)) is not None:
        return found
    target = _target(cache, name)
    python = target / "bin" / "python"
    print(f"creating {target}", file=sys.stderr, flush=True)
    venv.create(target, with_pip=True, clear=True)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", PEERS / f"{name}.txt"],
        check=True,
        stdout=sys.stderr,
    )
    (target / "ready").touch()
    return python


def _target(cache: Path, name: str) -> Path:
    digest = hashlib.sha256((PEERS / f"{name}.txt").read_bytes()).hexdigest()[:12]
    return cache / f"{name}-venv-{digest}"
