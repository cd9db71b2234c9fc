"""Values and rules of jobs; `transitions` holds the moves between their states."""

from enum import StrEnum
from typing import Literal
from uuid import UUID

JobKind = Literal["sft", "diloco", "import"]
BUNDLED = "bundled:smollm2-135m"
MAX_LOG_CHUNK_BYTES = 16 * 1024
MAX_LOG_BYTES = 4 * 2**20
# A driver that holds the lease is dead after this much silence.
LEASE_S = 30.0
# One that was submitted may first have to wait for a node and load its libraries.
START_S = 300.0

# The third failure since the job was last queued by a person ends it.
MAX_FAILURES = 3
# Between attempts: 5, 20, 80 s … A process that died needs no more than the first; a dependency
# that is away is not asked every second, by all jobs at once.
FIRST_RETRY_S, RETRY_FACTOR, LONGEST_RETRY_S = 5.0, 4.0, 300.0
# Jobs that failed together come back apart.
RETRY_JITTER = 0.25
# A driver that was asked to stop checkpoints first; after this it is ended.
STOP_GRACE_S = 60.0
# Two beats of a driver that were missed: worth a look at Ray before the lease runs out.
QUIET_S = 20.0
# A submission that was opened and not confirmed: the supervisor died in between.
UNCONFIRMED_S = 10.0
# Half of one, so that a fleet of CPU workers finds room beside an engine.
FLEET_WORKER_CPUS = 0.5
MIN_PRIORITY, MAX_PRIORITY = -100, 100


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


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
ACTIVE = frozenset(JobState) - ENDED
# A driver holds the lease in these.
LEASED = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CHECKPOINTING})
# No driver of it runs, or one that ends by itself: cancelling takes effect at once.
WAITING = frozenset({JobState.QUEUED, JobState.ADMITTED})


class Phase(StrEnum):
    """What an attempt is doing, as far as the watchdog is concerned."""

    PLACE = "place"
    LOAD = "load"
    COMPILE = "compile"
    TRAIN = "train"
    CHECKPOINT = "checkpoint"
    PUBLISH = "publish"


# How long a phase may show nothing new before the attempt counts as hung. Loading counts bytes, so
# 900 s mean that not one arrived. Publishing cannot show its bytes, so an hour is for all of them.
# A worker that waits for room is not hung: the cluster is full.
_ALLOWED_S: dict[Phase, float | None] = {
    Phase.PLACE: None,
    Phase.LOAD: 900.0,
    Phase.COMPILE: 1800.0,
    Phase.TRAIN: 120.0,
    Phase.CHECKPOINT: 600.0,
    Phase.PUBLISH: 3600.0,
}
STEPS_ALLOWED = 6


def allowed_silence_s(phase: Phase, step_s: float | None = None) -> float | None:
    """Seconds without progress after which an attempt counts as hung; None: it never does.

    Args:
        step_s: moving time of an optimiser step.
    """
    allowed = _ALLOWED_S[phase]
    if phase is Phase.TRAIN and step_s is not None and allowed is not None:
        return max(allowed, STEPS_ALLOWED * step_s)
    return allowed


def retry_delay_s(failures: int, jitter: float) -> float:
    """Seconds from the end of an attempt to the beginning of the next.

    Args:
        failures: since a person last queued the job, at least 1.
        jitter: from -1 to 1, drawn anew each time.
    """
    delay = min(LONGEST_RETRY_S, FIRST_RETRY_S * RETRY_FACTOR ** (failures - 1))
    return delay * (1 + RETRY_JITTER * jitter)


def submission_id(job_id: UUID, attempt: int) -> str:
    """Ray's name of one attempt; submitting it twice starts one driver."""
    return f"fj-{job_id}-{attempt}"
