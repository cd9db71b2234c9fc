"""Checkpoints of a run: tensors in safetensors, the rest in JSON, nothing executable."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foundry.engines.training.files import (
    remove_partial,
    whole_directory,
    write_json,
    write_tensors,
)

_KEPT = 2
_TENSORS = "state.safetensors"
_STATE = "state.json"
_NAME = re.compile(r"step-(\d{8})")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything that is not a tensor.

    Attributes:
        step: optimiser steps done.
        epoch, index: the sampler's cursor, pointing at the next batch.
        threads: torch's thread count; another one sums in another order.
        run_digest: identifies config, data and base weights.
    """

    step: int
    epoch: int
    index: int
    tokens: int
    trained_tokens: int
    threads: int
    run_digest: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    state: RunState
    tensors: dict[str, Tensor]


class CheckpointStore(Protocol):
    """Where a run keeps its checkpoints: whole ones, the newest first."""

    def save(self, checkpoint: Checkpoint) -> object:
        """Keep durably. Raises DiskFull: older checkpoints stay."""

    def load(self) -> Checkpoint | None:
        """The newest one that is intact."""

    def clear(self) -> None:
        """Remove all: the result supersedes them."""


class Checkpoints:
    """A `CheckpointStore` in one directory."""

    def __init__(
        self, root: Path, write: Callable[[Path, dict[str, Tensor]], None] = write_tensors
    ) -> None:
        self._root = root
        self._write = write

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write durably, then drop all but the newest two.

        Raises:
            DiskFull: nothing is left of the attempt, older checkpoints stay.
        """
        target = self._root / f"step-{checkpoint.state.step:08d}"
        with whole_directory(target) as staging:
            self._write(staging / _TENSORS, checkpoint.tensors)
            document = {**asdict(checkpoint.state), "sha256": _sha256(staging / _TENSORS)}
            write_json(staging / _STATE, document)
        for stale in self._newest_first()[_KEPT:]:
            shutil.rmtree(stale, ignore_errors=True)
        return target

    def load(self) -> Checkpoint | None:
        """The newest one that is intact; a damaged one is passed over."""
        remove_partial(self._root)
        for path in self._newest_first():
            try:
                return _read(path)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("checkpoint %s is damaged, trying an older one: %s", path.name, error)
        return None

    def clear(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return sorted((p for p in self._root.iterdir() if _NAME.fullmatch(p.name)), reverse=True)


def _read(path: Path) -> Checkpoint:
    document = json.loads((path / _STATE).read_text())
    expected = document.pop("sha256")
    if _sha256(path / _TENSORS) != expected:
        raise ValueError("digest mismatch")
    return Checkpoint(RunState(**document), load_file(path / _TENSORS))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
