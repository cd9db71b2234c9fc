"""The supervisor's sign of life, for those who look from outside: `status` and the guard.

its loop turns ──every 3 s──▶ run/supervisor.json ──read──▶ healthy while it comes in time and no
                                                            pass has outlasted its own deadline

That the process exists says nothing: an event loop that is blocked, or a pass that waits for ever,
leaves it alive and useless. The bounds are the writer's, for it knows its deadlines.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

# Written over in place: a new file each time would need free space, and a full disk must not make a
# supervisor look dead. Blanks fill it up, so that no end of a longer one stays behind.
_BYTES = 512


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a supervisor says of itself.

    Attributes:
        pid: of its process.
        at: of the monotonic clock, which all processes of a machine share; seconds.
        due_s: without another one for so long, its loop does not turn.
        acts: it holds the lease.
        stuck: passes that have outlasted their deadline and do not end.
    """

    pid: int
    at: float
    due_s: float
    acts: bool
    stuck: tuple[str, ...] = ()


def write_heartbeat(home: Path, beat: Heartbeat) -> None:
    """Write it over the last one. Raises OSError."""
    text = json.dumps(asdict(beat)).encode().ljust(_BYTES)
    handle = os.open(_beat_file(home), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, text, 0)
    finally:
        os.close(handle)


def read_heartbeat(home: Path) -> Heartbeat | None:
    """The last one; None: there is none, or it is just being written."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(_beat_file(home).read_text())
        return Heartbeat(
            pid=int(found["pid"]),
            at=float(found["at"]),
            due_s=float(found["due_s"]),
            acts=bool(found["acts"]),
            stuck=tuple(map(str, found["stuck"])),
        )
    return None


def _beat_file(home: Path) -> Path:
    return home / "run" / "supervisor.json"
