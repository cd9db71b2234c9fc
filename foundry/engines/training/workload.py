"""What a worker trains: a model with its optimiser, and the numbered batches of the run."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self, TypeVar

import torch
from torch import nn

from foundry.engines.training.activations import ActivationBudget
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.config import DecoderConfig
from foundry.engines.training.decoder.dropout import Draws
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.weights import export_model, load_model
from foundry.engines.training.devices import (
    default_device,
    demand_exact_sums,
    is_host,
    read_traits,
)
from foundry.engines.training.files import whole_directory
from foundry.engines.training.learner import Learner
from foundry.engines.training.messages.conversation import Row
from foundry.engines.training.messages.rows import Prepared, prepare
from foundry.engines.training.messages.targets import Example
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.engines.training.optimisers.choice import OPTIMISERS
from foundry.engines.training.optimisers.host import HostMasters
from foundry.engines.training.optimisers.scaler import LossScaler
from foundry.engines.training.packing import Batch, collate
from foundry.engines.training.precision import Precision, choose_precision
from foundry.engines.training.sampler import Cursor, Item, Sampler
from foundry.errors import Conflict, InvalidDataset

T = TypeVar("T")

_DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Workload(Protocol):
    """The same on every worker: batch `number` has the same tokens wherever it is trained."""

    @property
    def learner(self) -> Learner: ...

    @property
    def total_batches(self) -> int:
        """Batches of one worker's whole run: its optimiser steps."""

    def batches(self, number: int) -> Sequence[Batch]:
        """The micro-batches of batch `number`, 0 or more; past the last epoch it goes on."""

    def evaluation(self) -> Iterable[Batch]:
        """The held-out micro-batches; none, if nothing is held out."""

    def export(self, target: Path) -> None:
        """Write the trained model or adapter; whole or not at all. Raises DiskFull."""


class SftWorkload:
    """Chat rows and a model of the registry."""

    def __init__(
        self,
        config: SftConfig,
        model_dir: Path,
        train: Prepared,
        evaluation: Prepared,
        device: str | None = None,
    ) -> None:
        self._config = config
        self._model_dir = model_dir
        self.device = torch.device(device or default_device())
        demand_exact_sums()
        self.precision = choose_precision(config.precision, read_traits(self.device))
        self.data = train
        self._evaluation = evaluation.examples
        self._sampler = Sampler([len(e.tokens) for e in train.examples], config)
        if config.offload and is_host(self.device):
            raise Conflict(
                "offload would be ignored: this machine trains in the host's memory already, so "
                "leave it out"
            )
        vocab_size = DecoderConfig.load(model_dir).vocab_size
        for data in (train, evaluation):
            check_token_ids(data, vocab_size)
        self._model, draws = self._build_model()
        declared = (
            lora.declared_names(self._model, config.method)
            if isinstance(config.method, Lora)
            else {name for name, _ in self._model.named_parameters()}
        )
        parameters = lora.trainable(self._model, declared)
        masters = self._offload(parameters) if config.offload else None
        self.learner = Learner(
            self._model,
            masters.parameters if masters else parameters,
            lr=config.lr,
            weight_decay=config.weight_decay,
            grad_clip=config.grad_clip,
            draws=draws,
            scaler=LossScaler() if self.precision == "float16" else None,
            optimiser=OPTIMISERS[config.optimiser],
            masters=masters,
            budget=self._budget(parameters),
        )

    @classmethod
    def prepare(
        cls,
        config: SftConfig,
        model_dir: Path,
        train_rows: Sequence[Row],
        eval_rows: Sequence[Row],
        device: str | None = None,
        began: datetime | None = None,
    ) -> Self:
        """Tokenize the rows and load the model.

        Args:
            began: what chat templates are told as the date, on every worker; unset: the clock.

        Raises:
            InvalidDataset: a row cannot be used, or nothing is left to train on.
            UnsupportedFeature: an architecture or template outside the supported ones.
            InvalidArtifact: broken model files.
        """
        return cls(
            config, model_dir, *prepared(config, model_dir, train_rows, eval_rows, began), device
        )

    @property
    def total_batches(self) -> int:
        return self._sampler.total_steps()

    def batches(self, number: int) -> list[Batch]:
        return self._collated(self._sampler.items(number))

    def batch(self, cursor: Cursor) -> tuple[list[Batch], Cursor]:
        """The micro-batches at `cursor`, and where the next ones start."""
        items, after = self._sampler.batch(cursor)
        return self._collated(items), after

    def _collated(self, items: Sequence[Item]) -> list[Batch]:
        return [
            collate((self.data.examples[i] for item in chunk for i in item), self.device)
            for chunk in chunks(items, self._config.micro_batch_size)
        ]

    def evaluation(self) -> Iterable[Batch]:
        for examples in chunks(self._evaluation, self._config.micro_batch_size):
            yield collate(examples, self.device)

    def export(self, target: Path) -> None:
        method = self._config.method
        self.learner.publish()
        with whole_directory(target) as staging:
            if isinstance(method, Lora):
                lora.export_adapter(self._model, method, staging)
            else:
                dtype = _DTYPES[self.precision]
                export_model(self._model, self._model_dir, staging, dtype)

    def digest(self) -> str:
        """SHA-256 of config, data and base weights."""
        return run_digest(self._config, self._model_dir, self.data.examples)

    def _build_model(self) -> tuple[Decoder, Draws | None]:
        """The model, and its dropout masks if it has an adapter."""
        compute = _DTYPES[self.precision]
        is_lora = isinstance(self._config.method, Lora)
        offloads_base = self._config.offload and not is_lora
        model = load_model(
            self._model_dir,
            # Trained weights stay float32: in bfloat16 a small update rounds to nothing.
            dtype=compute if is_lora else torch.float32,
            compute_dtype=compute,
            device="cpu" if offloads_base else self.device,
        )
        if self._config.activation_checkpointing:
            model.recomputed_layers = len(model.model.layers)
        draws = None
        if isinstance(self._config.method, Lora):
            model.config.check_served_targets(self._config.method.targets)
            draws = lora.attach(model, self._config.method, self._config.seed)
        return model, draws

    def _offload(self, parameters: Mapping[str, nn.Parameter]) -> HostMasters:
        """Keep the masters here, and move to the device what its passes need."""
        masters = HostMasters(parameters)
        if not isinstance(self._config.method, Lora):
            self._model.to(self.device)
            self._model.narrow_projections()
        return masters

    def _budget(self, parameters: Mapping[str, nn.Parameter]) -> ActivationBudget | None:
        limit = self._config.activation_budget
        if limit is None or self._config.activation_checkpointing:
            return None
        return ActivationBudget(self._model, parameters.values(), limit)


def prepared(
    config: SftConfig,
    model_dir: Path,
    train_rows: Sequence[Row],
    eval_rows: Sequence[Row],
    began: datetime | None = None,
) -> tuple[Prepared, Prepared]:
    """Both splits tokenized.

    Args:
        began: what chat templates are told as the date; unset: the clock.

    Raises:
        InvalidDataset: a row cannot be used, or nothing is left to train on.
    """
    tokenizer = ChatTokenizer.load(model_dir, began)
    train, evaluation = (
        prepare(
            rows,
            tokenizer,
            max_seq_len=config.max_seq_len,
            too_long=config.too_long,
            split=split,
        )
        for split, rows in (("train", train_rows), ("eval", eval_rows))
    )
    if not train.examples:
        raise InvalidDataset("no row is left to train on: none has a reply that fits max_seq_len")
    return train, evaluation


def check_token_ids(data: Prepared, vocab_size: int) -> None:
    """Refuse tokens for which the model has no embedding. Raises InvalidDataset."""
    largest = max((max(example.tokens) for example in data.examples), default=0)
    if largest >= vocab_size:
        raise InvalidDataset(
            f"the tokenizer makes token {largest} of the rows, the model has {vocab_size} tokens: "
            "its files do not belong together, or tokens were added without training them"
        )


def chunks(values: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def run_digest(config: SftConfig, model_dir: Path, examples: Sequence[Example]) -> str:
    digest = hashlib.sha256(config.digest().encode())
    for example in examples:
        # Without shares between 0 and 1 as before there were any: such runs go on where they were.
        plain = set(example.weights) <= {0.0, 1.0}
        learned = example.trained if plain else example.weights
        digest.update(repr((example.tokens, learned)).encode())
    for path in sorted(model_dir.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
