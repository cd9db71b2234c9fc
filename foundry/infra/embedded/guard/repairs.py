"""The last thing that a guard did, kept where `foundry status` finds it."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from foundry.infra.embedded.paths import write_private


@dataclass(frozen=True, slots=True)
class Repair:
    """What was wrong, what came of it, and when (seconds since the epoch)."""

    reason: str
    outcome: str
    at: float


def write_repair(home: Path, repair: Repair) -> None:
    """Keep it in place of the one before."""
    write_private(_record_file(home), json.dumps(asdict(repair)))


def read_last_repair(home: Path) -> Repair | None:
    """None: there was none, or its record cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        return Repair(**json.loads(_record_file(home).read_text()))
    return None


def _record_file(home: Path) -> Path:
    return home / "run" / "guard.json"
