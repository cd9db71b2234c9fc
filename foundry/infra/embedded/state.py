"""What `up` remembers of a stack, and the lock under which it works."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from uuid import UUID, uuid5

from foundry.errors import AlreadyRunning
from foundry.infra.embedded.paths import runtime_dir

_NAMESPACE = UUID("6c1f3c52-3a1f-5d5c-9d0e-0b7f1b0b7a11")


@dataclass(frozen=True, slots=True)
class StackState:
    """One started stack.

    Attributes:
        url: where its HTTP listens.
        pids: part to (pid, creation time in seconds since the epoch).
        ports: name to TCP port.
        environment: what its processes run with, beyond the user's own; no secrets.
        fingerprint: of the code and settings that it was started with.
    """

    url: str
    pids: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    fingerprint: Mapping[str, str] = field(default_factory=dict)

    def with_process(self, part: str, pid: int, created: float) -> "StackState":
        return replace(self, pids={**self.pids, part: (pid, created)})


def stack_id(home: Path) -> str:
    """The marker of a home's processes; derived, so that it survives a deleted home."""
    return str(uuid5(_NAMESPACE, str(home.absolute())))


def save(home: Path, state: StackState) -> None:
    """Twice: under the home, and where a deleted home does not take it along."""
    text = json.dumps(asdict(state), indent=2)
    for path in _files(home):
        if path.parent.is_dir():
            write_private(path, text)


def load(home: Path) -> StackState | None:
    for path in _files(home):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_text())
            pids = {part: (int(pid), float(at)) for part, (pid, at) in found["pids"].items()}
            # Stacks of earlier releases have no fingerprint.
            known = found.get("fingerprint", {})
            return StackState(found["url"], pids, found["ports"], found["environment"], known)
    return None


def forget(home: Path) -> None:
    for path in _files(home):
        path.unlink(missing_ok=True)


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


@contextmanager
def exclusive(home: Path, doing: str, name: str = "lock") -> Iterator[None]:
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


def _files(home: Path) -> tuple[Path, Path]:
    return home / "run" / "stack.json", runtime_dir(home) / "stack.json"
