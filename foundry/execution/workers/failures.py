"""Which errors end a job, and which only an attempt.

An error is retryable if the same job may succeed on another day or another node: a dependency is
away, a process died, memory was short. What the job's own data and settings cause, and what nobody
foresaw, a retry would meet again: it is final.
"""

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from ray.exceptions import (
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from foundry.errors import DiskFull, EngineFailed, FoundryError, Unavailable

log = logging.getLogger(__name__)

_LOG_LINES = 20
_MEMORY_ADVICE = (
    "it ran out of memory: choose a smaller micro_batch_size or max_seq_len, or a larger node"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended."""

    code: str
    message: str
    retryable: bool

    def document(self, attempt: int, log_lines: Sequence[str]) -> dict[str, object]:
        """As the job's row keeps it.

        Args:
            log_lines: the last ones that the attempt wrote.
        """
        document: dict[str, object] = {
            "code": self.code,
            "message": self.message,
            "attempt": attempt,
        }
        if log_lines:
            document["log"] = list(log_lines[-_LOG_LINES:])
        return document


def classify(error: BaseException) -> Failure:
    """What an error of the work means; libraries' words stay in the log."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, FoundryError):
        retryable = isinstance(cause, Unavailable | EngineFailed)
        return Failure(cause.code, cause.message, retryable)
    if isinstance(cause, OutOfMemoryError | MemoryError):
        return Failure("resource_exhausted", f"the worker was ended because {_MEMORY_ADVICE}", True)
    if type(cause).__name__ == "OutOfMemoryError":
        # torch's, of an accelerator: the same batch never fits.
        return Failure("resource_exhausted", f"the accelerator failed: {_MEMORY_ADVICE}", False)
    if isinstance(error, RayActorError | WorkerCrashedError):
        return Failure("engine_failed", "the worker died: `foundry jobs logs` shows its end", True)
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        return Failure("engine_failed", "the cluster lost the worker or its results", True)
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        if cause.errno == 28:
            return Failure(DiskFull.code, "a disk is full: free some space, then resume", False)
        return Failure("unavailable", "a file or a connection failed", True)
    return Failure(
        "internal_error",
        f"an unexpected {type(cause).__name__} ended it: `foundry jobs logs` shows where",
        False,
    )


def describe_trace(error: BaseException) -> str:
    """The trace for the log; a worker's own, where it is one."""
    return "".join(traceback.format_exception(error, chain=False)).rstrip()
