"""Supervised fine-tuning: read rows, train, export.

A run owns its work directory, and keeps its checkpoints there or in the store that it is given.
Killed at any moment and started again with the same arguments, it continues from its newest intact
checkpoint; on a CPU the exported bytes equal those of a run that
was never interrupted.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import torch

from foundry.engines.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    CheckpointStore,
    RunState,
)
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.files import remove_partial
from foundry.engines.training.messages.conversation import Row
from foundry.engines.training.packing import Batch
from foundry.engines.training.progress import (
    Activity,
    Clock,
    SftResult,
    TrainEvent,
    record_beginning,
    record_result,
    recorded_result,
)
from foundry.engines.training.sampler import Cursor
from foundry.engines.training.schedule import learning_rate
from foundry.engines.training.workload import SftWorkload, prepared, run_digest
from foundry.errors import Conflict, TrainingDiverged


def run_sft(
    config: SftConfig,
    *,
    model_dir: Path,
    train_rows: Sequence[Row],
    eval_rows: Sequence[Row] = (),
    work_dir: Path,
    on_event: Callable[[TrainEvent], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    on_activity: Callable[[Activity], None] = lambda activity: None,
    checkpoints: CheckpointStore | None = None,
    device: str | None = None,
    began: datetime | None = None,
) -> SftResult:
    """Fine-tune the model in `model_dir`; resume if there is a checkpoint of this run.

    Args:
        on_activity: told before every step, evaluated batch, checkpoint and export.
        checkpoints: unset: they are kept in `work_dir`.
        began: what chat templates that print the date are told, the same in every attempt; unset:
            when the run first began in `work_dir`.

    Raises:
        InvalidDataset: a row cannot be used, or nothing is left to train on.
        UnsupportedFeature: an architecture or template outside the supported ones.
        InvalidArtifact: broken model files.
        Conflict: `work_dir` belongs to a run with other settings, data or weights.
        DiskFull: a checkpoint or the result did not fit; free space and call again.
        TrainingDiverged: the loss is no finite number any more.
    """
    remove_partial(work_dir)
    began = began or record_beginning(work_dir)
    train, evaluation = prepared(config, model_dir, train_rows, eval_rows, began)
    digest = run_digest(config, model_dir, train.examples)
    if (result := recorded_result(work_dir, digest)) is not None:
        return result
    workload = SftWorkload(config, model_dir, train, evaluation, device)
    store = checkpoints or Checkpoints(work_dir / "checkpoints")
    run = _Run(config, workload, work_dir, digest, store, on_activity)
    run.resume()
    return run.train(on_event, should_stop)


class _Run:
    """The state of one run in one process."""

    def __init__(
        self,
        config: SftConfig,
        workload: SftWorkload,
        work_dir: Path,
        digest: str,
        checkpoints: CheckpointStore,
        on_activity: Callable[[Activity], None],
    ) -> None:
        self._config = config
        self._workload = workload
        self._learner = workload.learner
        self._work_dir = work_dir
        self._checkpoints = checkpoints
        self._on_activity = on_activity
        self._total_steps = workload.total_batches
        self._digest = digest
        self._step = self._tokens = self._trained_tokens = 0
        self._cursor = Cursor()
        self._metrics: dict[str, float] = {}

    def train(
        self, on_event: Callable[[TrainEvent], None], should_stop: Callable[[], bool]
    ) -> SftResult:
        clock = Clock(self._tokens)
        while self._step < self._total_steps:
            if should_stop():
                self._save()
                return self._result(None)
            loss, grad_norm, rate = self._optimiser_step()
            last = self._step == self._total_steps
            eval_loss = seconds = None
            with clock.paused():
                if self._due(self._config.eval_every, last):
                    eval_loss = self._evaluate()
                if not last and self._step % self._config.checkpoint_every == 0:
                    seconds = self._save()
            self._metrics["loss"] = loss
            if self._due(self._config.log_every, last) or eval_loss is not None or seconds:
                spent, speed = clock.lap(self._step, self._tokens)
                on_event(
                    TrainEvent(
                        step=self._step,
                        total_steps=self._total_steps,
                        loss=loss,
                        grad_norm=grad_norm,
                        lr=rate,
                        tokens_total=self._tokens,
                        tokens_per_second=speed,
                        step_seconds=spent,
                        eval_loss=eval_loss,
                        checkpoint_seconds=seconds,
                    )
                )
        self._metrics["tokens_per_second"] = clock.overall(self._tokens)
        return self._export()

    def _due(self, every: int | None, last: bool) -> bool:
        return last or (every is not None and self._step % every == 0)

    def _optimiser_step(self) -> tuple[float, float, float]:
        """One update. Returns the loss, the gradient norm and the learning rate."""
        self._on_activity("train")
        config = self._config
        batches, cursor = self._workload.batch(self._cursor)
        rate = learning_rate(
            self._step,
            peak=config.lr,
            total_steps=self._total_steps,
            warmup_ratio=config.warmup_ratio,
            kind=config.schedule,
        )
        try:
            outcome = self._learner.step(batches, rate)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"step {self._step + 1}: {error.message}") from error
        self._step += 1
        self._cursor = cursor
        self._tokens += outcome.tokens
        self._trained_tokens += outcome.trained_tokens
        return outcome.loss, outcome.grad_norm, rate

    def _evaluate(self) -> float | None:
        """Mean loss over the held-out rows' trained tokens."""
        loss = self._learner.evaluate(self._evaluated())
        if loss is not None:
            self._metrics["eval_loss"] = loss
        return loss

    def _evaluated(self) -> Iterator[Batch]:
        for batch in self._workload.evaluation():
            self._on_activity("evaluate")
            yield batch

    def _save(self) -> float:
        """Write a checkpoint; returns the seconds it took."""
        self._on_activity("checkpoint")
        started = time.perf_counter()
        parameters = self._learner.parameters
        tensors = {f"parameter.{name}": p.detach() for name, p in parameters.items()}
        tensors |= self._learner.optimiser_state() | self._learner.run_state()
        state = RunState(
            step=self._step,
            epoch=self._cursor.epoch,
            index=self._cursor.index,
            tokens=self._tokens,
            trained_tokens=self._trained_tokens,
            threads=torch.get_num_threads(),
            run_digest=self._digest,
        )
        self._checkpoints.save(Checkpoint(state, tensors))
        return time.perf_counter() - started

    def resume(self) -> None:
        """Continue from the newest intact checkpoint, if there is one."""
        checkpoint = self._checkpoints.load()
        if checkpoint is None:
            return
        state, tensors = checkpoint.state, checkpoint.tensors
        if state.run_digest != self._digest:
            raise Conflict(
                f"{self._work_dir} holds checkpoints of a run with other settings, data or weights"
            )
        with torch.no_grad():
            for name, parameter in self._learner.parameters.items():
                parameter.copy_(tensors[f"parameter.{name}"])
        self._learner.load_optimiser_state(tensors)
        torch.set_num_threads(state.threads)
        self._learner.load_run_state(tensors)
        self._step, self._cursor = state.step, Cursor(state.epoch, state.index)
        self._tokens, self._trained_tokens = state.tokens, state.trained_tokens

    def _export(self) -> SftResult:
        self._on_activity("export")
        is_lora = isinstance(self._config.method, Lora)
        target = self._work_dir / ("adapter" if is_lora else "model")
        self._workload.export(target)
        result = self._result(target)
        record_result(self._work_dir, self._digest, result)
        # The result supersedes them, and a full model's are three times its size.
        self._checkpoints.clear()
        return result

    def _result(self, target: Path | None) -> SftResult:
        """`target`: what was exported; nothing, if the run was stopped."""
        is_lora = isinstance(self._config.method, Lora)
        self._metrics.update(
            trained_tokens=self._trained_tokens,
            examples=len(self._workload.data.examples),
            examples_dropped=self._workload.data.dropped,
            examples_truncated=self._workload.data.truncated,
        )
        if (scaler := self._learner.scaler) is not None:
            self._metrics["steps_skipped"] = scaler.skipped
        return SftResult(
            steps=self._step,
            total_steps=self._total_steps,
            tokens=self._tokens,
            metrics=dict(self._metrics),
            adapter_dir=target if is_lora else None,
            model_dir=None if is_lora else target,
            stopped=target is None,
        )
