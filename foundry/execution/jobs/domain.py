"""States of a job and the moves between them."""

import re
from enum import StrEnum
from typing import Literal
from uuid import UUID

from foundry.errors import InvalidRequest

JobKind = Literal["sft", "diloco", "import"]
BUNDLED = "bundled:smollm2-135m"
MAX_LOG_CHUNK_BYTES = 16 * 1024
MAX_LOG_BYTES = 4 * 2**20
# A driver that holds the lease is dead after this much silence.
LEASE_S = 30.0
# One that was submitted may first have to wait for a node and load its libraries.
START_S = 300.0

_FILE_SOURCE = re.compile(r"file:///[^\0]+")


class JobState(StrEnum):
    QUEUED = "QUEUED"
    ADMITTED = "ADMITTED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    CHECKPOINTING = "CHECKPOINTING"
    STALLED = "STALLED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_ENDINGS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.ADMITTED, JobState.STARTING, JobState.CANCELLED}),
    JobState.ADMITTED: frozenset({JobState.STARTING, JobState.QUEUED, JobState.CANCELLED}),
    JobState.STARTING: frozenset({JobState.RUNNING, JobState.STALLED}) | _ENDINGS,
    JobState.RUNNING: frozenset({JobState.CHECKPOINTING, JobState.STALLED}) | _ENDINGS,
    JobState.CHECKPOINTING: frozenset({JobState.RUNNING, JobState.STALLED}) | _ENDINGS,
    JobState.STALLED: frozenset({JobState.STARTING, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    # Resuming keeps the job's identity and its checkpoints; the attempt grows.
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}
ENDED = _ENDINGS
ACTIVE = frozenset(JobState) - ENDED
# A driver holds the lease in these.
LEASED = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CHECKPOINTING})
# The supervisor starts a driver for these.
STARTABLE = frozenset({JobState.QUEUED, JobState.ADMITTED, JobState.STALLED})


def sources(target: JobState) -> frozenset[JobState]:
    """The states from which `target` may be reached."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)


def submission_id(job_id: UUID, attempt: int) -> str:
    """Ray's name of one attempt; submitting it twice starts one driver."""
    return f"fj-{job_id}-{attempt}"


def check_source(source: str) -> None:
    """Raises InvalidRequest: `source` is none that an import reads."""
    if source == BUNDLED:
        return
    if not _FILE_SOURCE.fullmatch(source) or "/../" in f"{source}/":
        raise InvalidRequest(
            f"{source[:200]!r} cannot be imported: use {BUNDLED}, or file:///absolute/directory "
            "with config.json and safetensors files",
            param="source",
        )
