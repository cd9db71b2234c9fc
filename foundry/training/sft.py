"""Supervised fine-tuning: read rows, train, export.

A run owns its work directory. Killed at any moment and started again with the same arguments, it
continues from its newest intact checkpoint; on a CPU the exported bytes equal those of a run that
was never interrupted.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from foundry.errors import Conflict, InvalidDataset
from foundry.training import lora
from foundry.training.chat import ChatTokenizer, Example, Prepared, Row, prepare
from foundry.training.checkpoint import Checkpoint, Checkpoints, RunState
from foundry.training.config import Lora, SftConfig
from foundry.training.files import remove_partial, whole_directory
from foundry.training.losses import cross_entropy_sum
from foundry.training.model import Llama
from foundry.training.packing import Batch, collate
from foundry.training.progress import (
    Clock,
    SftResult,
    TrainEvent,
    record_result,
    recorded_result,
)
from foundry.training.sampler import Cursor, Item, Sampler
from foundry.training.schedule import learning_rate
from foundry.training.weights import export_model, load_model

T = TypeVar("T")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_OPTIMISER_STATE = ("step", "exp_avg", "exp_avg_sq")


def run_sft(
    config: SftConfig,
    *,
    model_dir: Path,
    train_rows: Sequence[Row],
    eval_rows: Sequence[Row] = (),
    work_dir: Path,
    on_event: Callable[[TrainEvent], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    device: str | None = None,
) -> SftResult:
    """Fine-tune the model in `model_dir`; resume if `work_dir` holds a checkpoint of this run.

    Raises:
        InvalidDataset: a row cannot be used, or nothing is left to train on.
        UnsupportedFeature: an architecture or template outside the supported ones.
        InvalidArtifact: broken model files.
        Conflict: `work_dir` belongs to a run with other settings, data or weights.
        DiskFull: a checkpoint or the result did not fit; free space and call again.
    """
    tokenizer = ChatTokenizer.load(model_dir)
    train, evaluation = (
        prepare(rows, tokenizer, max_seq_len=config.max_seq_len, too_long=config.too_long)
        for rows in (train_rows, eval_rows)
    )
    if not train.examples:
        raise InvalidDataset("no row is left to train on: none has a reply that fits max_seq_len")
    remove_partial(work_dir)
    digest = _run_digest(config, model_dir, train.examples)
    if (result := recorded_result(work_dir, digest)) is not None:
        return result
    run = _Run(config, model_dir, train, evaluation, work_dir, device or _default_device(), digest)
    run.resume()
    return run.train(on_event, should_stop)


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class _Run:
    """The state of one run in one process."""

    def __init__(
        self,
        config: SftConfig,
        model_dir: Path,
        train: Prepared,
        evaluation: Prepared,
        work_dir: Path,
        device: str,
        digest: str,
    ) -> None:
        self._config = config
        self._model_dir = model_dir
        self._work_dir = work_dir
        self._data = train
        self._evaluation = evaluation.examples
        self._device = torch.device(device)
        self._checkpoints = Checkpoints(work_dir / "checkpoints")
        self._sampler = Sampler([len(e.tokens) for e in train.examples], config)
        self._total_steps = self._sampler.total_steps()
        self._model = self._build_model()
        declared = (
            lora.declared_names(self._model, config.method)
            if isinstance(config.method, Lora)
            else {name for name, _ in self._model.named_parameters()}
        )
        self._parameters = lora.trainable(self._model, declared)
        self._optimiser = torch.optim.AdamW(
            self._parameters.values(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self._digest = digest
        self._step = self._tokens = self._trained_tokens = 0
        self._cursor = Cursor()
        self._metrics: dict[str, float] = {}
        torch.manual_seed(config.seed)

    def _build_model(self) -> Llama:
        compute = _DTYPES[self._config.precision]
        is_lora = isinstance(self._config.method, Lora)
        model = load_model(
            self._model_dir,
            # Trained weights stay float32: in bfloat16 a small update rounds to nothing.
            dtype=compute if is_lora else torch.float32,
            compute_dtype=compute,
            device=self._device,
        )
        model.activation_checkpointing = self._config.activation_checkpointing
        if isinstance(self._config.method, Lora):
            lora.attach(model, self._config.method, self._config.seed)
        return model

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
            eval_loss = self._evaluate() if self._due(self._config.eval_every, last) else None
            seconds = None
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
        config = self._config
        items, cursor = self._sampler.batch(self._cursor)
        batches = [self._collate(chunk) for chunk in _chunks(items, config.micro_batch_size)]
        trained = sum(len(batch.targets_N) for batch in batches)
        self._model.train()
        total = 0.0
        for batch in batches:
            loss = self._loss_sum(batch) / trained
            torch.autograd.backward(loss)
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(
            self._parameters.values(), config.grad_clip or float("inf")
        ).item()
        rate = learning_rate(
            self._step,
            peak=config.lr,
            total_steps=self._total_steps,
            warmup_ratio=config.warmup_ratio,
            kind=config.schedule,
        )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self._step += 1
        self._cursor = cursor
        self._tokens += sum(len(batch.tokens_T) for batch in batches)
        self._trained_tokens += trained
        return total, norm, rate

    def _collate(self, items: Sequence[Item]) -> Batch:
        return collate((self._data.examples[i] for item in items for i in item), self._device)

    def _loss_sum(self, batch: Batch) -> Tensor:
        hidden_TH = self._model(batch.tokens_T, batch.positions_T, batch.segments)
        hidden_NH = hidden_TH.index_select(0, batch.sources_N)
        return cross_entropy_sum(hidden_NH, self._model.lm_head.weight, batch.targets_N)

    @torch.no_grad()
    def _evaluate(self) -> float | None:
        """Mean loss over the held-out rows' trained tokens."""
        if not self._evaluation:
            return None
        self._model.eval()
        total, trained = 0.0, 0
        for examples in _chunks(self._evaluation, self._config.micro_batch_size):
            batch = collate(examples, self._device)
            total += self._loss_sum(batch).item()
            trained += len(batch.targets_N)
        self._metrics["eval_loss"] = total / trained
        return total / trained

    def _save(self) -> float:
        """Write a checkpoint; returns the seconds it took."""
        started = time.perf_counter()
        tensors = {f"parameter.{name}": p.detach() for name, p in self._parameters.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value
        tensors["random.cpu"] = torch.get_rng_state()
        if self._device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self._device)
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
            for name, parameter in self._parameters.items():
                parameter.copy_(tensors[f"parameter.{name}"])
                if f"step.{name}" in tensors:
                    self._optimiser.state[parameter] = {
                        key: tensors[f"{key}.{name}"].to(self._device) for key in _OPTIMISER_STATE
                    }
        torch.set_num_threads(state.threads)
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and self._device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self._device)
        self._step, self._cursor = state.step, Cursor(state.epoch, state.index)
        self._tokens, self._trained_tokens = state.tokens, state.trained_tokens

    def _export(self) -> SftResult:
        method = self._config.method
        target = self._work_dir / ("adapter" if isinstance(method, Lora) else "model")
        with whole_directory(target) as staging:
            if isinstance(method, Lora):
                lora.export_adapter(self._model, method, staging)
            else:
                dtype = _DTYPES[self._config.precision]
                export_model(self._model, self._model_dir, staging, dtype)
        result = self._result(target)
        record_result(self._work_dir, self._digest, result)
        # The result supersedes them, and a full model's are three times its size.
        shutil.rmtree(self._work_dir / "checkpoints", ignore_errors=True)
        return result

    def _result(self, target: Path | None) -> SftResult:
        """`target`: what was exported; nothing, if the run was stopped."""
        is_lora = isinstance(self._config.method, Lora)
        self._metrics.update(
            trained_tokens=self._trained_tokens,
            examples=len(self._data.examples),
            examples_dropped=self._data.dropped,
            examples_truncated=self._data.truncated,
        )
        return SftResult(
            steps=self._step,
            total_steps=self._total_steps,
            tokens=self._tokens,
            metrics=dict(self._metrics),
            adapter_dir=target if is_lora else None,
            model_dir=None if is_lora else target,
            stopped=target is None,
        )


def _chunks(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _run_digest(config: SftConfig, model_dir: Path, examples: Sequence[Example]) -> str:
    digest = hashlib.sha256(config.digest().encode())
    for example in examples:
        digest.update(repr((example.tokens, example.trained)).encode())
    for path in sorted(model_dir.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
