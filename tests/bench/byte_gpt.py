"""A byte-level GPT of a million parameters and the prose that it learns: the benchmark's workload.

The text is the documentation inside botocore, which the lock pins by hash: about 17 MB of English
sentences, each kept once, in an order drawn by SHA-256. Any other text may be given instead.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foundry.engines.training.decoder.model import Decoder, DecoderConfig
from foundry.engines.training.learner import Learner
from foundry.engines.training.packing import Batch

GPT = DecoderConfig.of(
    {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 256,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
    }
)
EVAL_BYTES = 1 << 16
EVAL_WINDOWS = 512
_GAP_BYTES = 1 << 18  # between what is trained on and what is held out
_SHORTEST = 200


def write_corpus(target: Path) -> str:
    """Make the text unless it is there. Returns its SHA-256."""
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.write_bytes("\n".join(_documents()).encode())
        partial.rename(target)
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _documents() -> list[str]:
    import botocore

    found = set()
    for path in (Path(botocore.__file__).parent / "data").glob("*/*/service-2.json*"):
        raw = path.read_bytes()
        model = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        for markup in _documentation(model):
            text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", markup)).strip()
            if len(text) >= _SHORTEST:
                found.add(text)
    return sorted(found, key=lambda text: hashlib.sha256(text.encode()).digest())


def _documentation(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(text := node.get("documentation"), str):
            yield text
        for value in node.values():
            yield from _documentation(value)
    elif isinstance(node, list):
        for value in node:
            yield from _documentation(value)


def fresh_model(seed: int) -> Decoder:
    """GPT-2's initialisation: 0.02, projections into the residual stream scaled down by depth."""
    generator = torch.Generator().manual_seed(seed)
    model = Decoder(GPT)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
                continue
            into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = (2 * GPT.num_hidden_layers) ** -0.5 if into_residual else 1.0
            parameter.normal_(0.0, 0.02 * scale, generator=generator)
    return model


class ByteGpt:
    """A workload: random windows of the text, drawn by seed and number of the batch."""

    def __init__(self, source: "ByteGptSource") -> None:
        text = np.fromfile(source.corpus, np.uint8)
        self._source = source
        self._train = text[EVAL_BYTES + _GAP_BYTES :]
        self._held_out = text[:EVAL_BYTES]
        self.model = fresh_model(source.seed)
        self.learner = Learner(
            self.model,
            dict(self.model.named_parameters()),
            lr=source.lr,
            weight_decay=0.1,
            grad_clip=1.0,
            # Small batches want a longer memory of the second moment than the usual 0.95.
            betas=(0.9, 0.99),
        )
        self.total_batches = source.steps

    def batches(self, number: int) -> list[Batch]:
        source = self._source
        random = np.random.Generator(np.random.PCG64([source.seed, number]))
        starts = random.integers(0, self._train.size - source.length, source.batch_size)
        return [_batch(self._train, starts, source.length)]

    def evaluation(self) -> list[Batch]:
        """64 windows a batch, spread evenly over the held-out text."""
        length = self._source.length
        starts = np.arange(EVAL_WINDOWS) * (EVAL_BYTES - length - 1) // EVAL_WINDOWS
        return [
            _batch(self._held_out, starts[first : first + 64], length)
            for first in range(0, EVAL_WINDOWS, 64)
        ]

    def export(self, target: Path) -> None:
        target.mkdir(parents=True)
        torch.save(self.model.state_dict(), target / "model.pt")


@dataclass(frozen=True, slots=True)
class ByteGptSource:
    """Opens the same workload in every process.

    Attributes:
        steps: optimiser steps of one worker.
        batch_size, length: windows of a worker's batch, and bytes that each predicts.
    """

    corpus: Path
    seed: int = 0
    steps: int = 1000
    batch_size: int = 8
    length: int = 64
    lr: float = 1e-3

    def open(self) -> ByteGpt:
        return ByteGpt(self)


def _batch(text: NDArray[np.uint8], starts: NDArray[np.int64], length: int) -> Batch:
    """Every byte of a window is predicted from those before it."""
    windows = torch.from_numpy(
        np.stack([text[start : start + length + 1] for start in starts]).astype(np.int64)
    )
    count = len(starts)
    return Batch(
        tokens_T=windows[:, :-1].reshape(-1),
        positions_T=torch.arange(length).repeat(count),
        segments=(length,) * count,
        sources_N=torch.arange(count * length),
        targets_N=windows[:, 1:].reshape(-1),
    )
