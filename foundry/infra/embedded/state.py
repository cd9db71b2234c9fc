"""What `up` remembers of a stack."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from uuid import UUID, uuid5

from foundry.config import Settings
from foundry.infra.embedded.paths import runtime_dir, write_private

_NAMESPACE = UUID("6c1f3c52-3a1f-5d5c-9d0e-0b7f1b0b7a11")


@dataclass(frozen=True, slots=True)
class StackState:
    """One started stack.

    Attributes:
        url: where its HTTP listens.
        pids: part to (pid, creation time in seconds since the epoch).
        ports: name to TCP port.
        environment: what its processes run with, beyond the user's own; no secrets.
        digests: of the code and settings that it was started with.
    """

    url: str
    pids: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    def with_process(self, part: str, pid: int, created: float) -> "StackState":
        """The same state with a part's process noted in place of the one before."""
        return replace(self, pids={**self.pids, part: (pid, created)})

    def ray_port(self, settings: Settings) -> int:
        """Where its Ray listens: the settings may name another port since."""
        return int(self.environment.get("FOUNDRY_RAY__PORT", settings.ray.port))


def stack_id(home: Path) -> str:
    """The marker of a home's processes; derived, so that it survives a deleted home."""
    return str(uuid5(_NAMESPACE, str(home.absolute())))


def save_state(home: Path, state: StackState) -> None:
    """Twice: under the home, and where a deleted home does not take it along."""
    text = json.dumps(asdict(state), indent=2)
    for path in _state_files(home):
        if path.parent.is_dir():
            write_private(path, text)


def load_state(home: Path) -> StackState | None:
    """What the last `up` has saved; None: nothing runs by it, or it cannot be read."""
    for path in _state_files(home):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(path.read_text())
            pids = {part: (int(pid), float(at)) for part, (pid, at) in found["pids"].items()}
            # Stacks of earlier releases have no digests.
            known = found.get("digests", {})
            return StackState(found["url"], pids, found["ports"], found["environment"], known)
    return None


def has_state(home: Path) -> bool:
    """Whether a stack is meant to run: also while its state cannot be read for a moment."""
    for path in _state_files(home):
        try:
            path.stat()
        except FileNotFoundError:
            continue
        except OSError:
            # Too many open files, a disk that is away: no reason to take the stack for gone.
            return True
        return True
    return False


def forget_state(home: Path) -> None:
    """Remove both copies; removing twice is no error."""
    for path in _state_files(home):
        path.unlink(missing_ok=True)


def _state_files(home: Path) -> tuple[Path, Path]:
    return home / "run" / "stack.json", runtime_dir(home) / "stack.json"
