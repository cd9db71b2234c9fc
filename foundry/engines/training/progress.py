"""What a run reports while it trains and when it ends."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from foundry.engines.training.files import replace_json, whole_directory, write_json
from foundry.errors import Conflict

# What a run does at the moment; each call of `on_activity` says that it moves.
Activity = Literal["train", "evaluate", "checkpoint", "export"]

_FINISHED = "finished"
_RESULT = "result.json"
_BEGAN = "began.json"


@dataclass(frozen=True, slots=True)
class TrainEvent:
    """What happened up to and including one optimiser step.

    Attributes:
        loss: mean over the trained tokens of the step, nats.
        grad_norm: before clipping.
        tokens_total: tokens processed since the run began, trained or not.
        tokens_per_second, step_seconds: over the steps since the last event, without what is no
            training.
        eval_loss: set when this step was followed by an evaluation.
        checkpoint_seconds: set when it was followed by a checkpoint.
    """

    step: int
    total_steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens_total: int
    tokens_per_second: float
    step_seconds: float
    eval_loss: float | None = None
    checkpoint_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SftResult:
    """The outcome. `adapter_dir` (LoRA) or `model_dir` (full) is ready to be served;
    both are unset when the run was stopped: it can be resumed."""

    steps: int
    total_steps: int
    tokens: int
    metrics: dict[str, float] = field(default_factory=dict)
    adapter_dir: Path | None = None
    model_dir: Path | None = None
    stopped: bool = False


class Clock:
    """Speed of training since the last lap, and of everything since the start."""

    def __init__(self, tokens: int) -> None:
        self._start = self._last = time.perf_counter()
        self._first_tokens = self._tokens = tokens
        self._step: int | None = None

    def lap(self, step: int, tokens: int) -> tuple[float, float]:
        """Seconds per step and tokens per second since the last lap."""
        now = time.perf_counter()
        seconds = now - self._last
        speed = (tokens - self._tokens) / seconds
        per_step = seconds / max(1, step - self._step) if self._step is not None else seconds
        self._last, self._tokens, self._step = now, tokens, step
        return per_step, speed

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the lap what is no training: evaluation, checkpoints."""
        began = time.perf_counter()
        yield
        self._last += time.perf_counter() - began

    def overall(self, tokens: int) -> float:
        return (tokens - self._first_tokens) / (time.perf_counter() - self._start)


def record_beginning(work_dir: Path) -> datetime:
    """When the run in this directory began; now, if it has not, and then that is noted.

    Chat templates may print the date: a run that is resumed the next day must render as before.
    """
    path = work_dir / _BEGAN
    if not path.is_file():
        replace_json(path, datetime.now(UTC).isoformat())
    return datetime.fromisoformat(json.loads(path.read_text()))


def record_result(work_dir: Path, run_digest: str, result: SftResult) -> None:
    """Note durably that the run is complete."""
    document = asdict(result)
    for key in ("adapter_dir", "model_dir"):
        document[key] = document[key] and document[key].name
    with whole_directory(work_dir / _FINISHED) as staging:
        write_json(staging / _RESULT, {"run_digest": run_digest, "result": document})


def recorded_result(work_dir: Path, run_digest: str) -> SftResult | None:
    """The result of a run that is already complete.

    Raises:
        Conflict: another run completed in this directory.
    """
    path = work_dir / _FINISHED / _RESULT
    if not path.is_file():
        return None
    document = json.loads(path.read_text())
    if document["run_digest"] != run_digest:
        raise Conflict(f"{work_dir} holds the result of a run with other settings, data or weights")
    result = document["result"]
    for key in ("adapter_dir", "model_dir"):
        result[key] = result[key] and work_dir / result[key]
    return SftResult(**result)
