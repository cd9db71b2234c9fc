"""Which error is tried again, and what its owner reads."""

import pytest
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from foundry.errors import (
    Conflict,
    DatabaseUnavailable,
    DiskFull,
    EngineFailed,
    InvalidDataset,
    TrainingDiverged,
    Unavailable,
)
from foundry.execution.workers.failures import classify, describe_trace


def of_worker(cause: Exception) -> Exception:
    """As Ray raises what a method of an actor has raised."""
    error: Exception = RayTaskError("run", "Traceback: in run\nboom", cause)
    return error


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (DatabaseUnavailable("away"), "database_unavailable", True),
        (Unavailable("away"), "unavailable", True),
        (EngineFailed("workers keep dying"), "engine_failed", True),
        (InvalidDataset("row 2"), "invalid_dataset", False),
        (TrainingDiverged("step 3"), "training_diverged", False),
        (Conflict("other settings"), "conflict", False),
        (DiskFull("free some"), "disk_full", False),
        (of_worker(InvalidDataset("row 2")), "invalid_dataset", False),
        (of_worker(Unavailable("away")), "unavailable", True),
        (of_worker(MemoryError()), "resource_exhausted", True),
        (of_worker(ValueError("shapes")), "internal_error", False),
        (of_worker(ConnectionResetError()), "unavailable", True),
        (of_worker(OSError(28, "No space left on device")), "disk_full", False),
        (OutOfMemoryError("killed: the node runs low on memory"), "resource_exhausted", True),
        (ActorDiedError(), "engine_failed", True),
        (WorkerCrashedError(), "engine_failed", True),
        (NodeDiedError("node"), "engine_failed", True),
        (ObjectLostError("00", None, ""), "engine_failed", True),
        (KeyError("base_version_id"), "internal_error", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_kinds(error: Exception, code: str, retryable: bool) -> None:
    failure = classify(error)
    assert (failure.code, failure.retryable) == (code, retryable)


def test_an_accelerator_without_memory_is_final_and_says_what_to_do() -> None:
    torch_error = type("OutOfMemoryError", (RuntimeError,), {})
    failure = classify(of_worker(torch_error("CUDA out of memory. Tried to allocate 2 GiB")))
    assert (failure.code, failure.retryable) == ("resource_exhausted", False)
    assert "smaller micro_batch_size" in failure.message
    assert "CUDA" not in failure.message


def test_the_librarys_words_are_in_the_log_only() -> None:
    error = of_worker(ValueError("mat1 and mat2 shapes cannot be multiplied"))
    failure = classify(error)
    assert failure.message == ("an unexpected ValueError ended it: `foundry jobs logs` shows where")
    assert "boom" in describe_trace(error)
    document = failure.document(2, [str(number) for number in range(30)])
    assert document["log"] == [str(number) for number in range(10, 30)]
    assert document["attempt"] == 2
