"""Sequences laid end to end: which share a pack, and the tensors of a micro-batch.

Shapes: T tokens of a stream, N trained positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foundry.engines.training.chat import Example

WINDOW = 10_000


def pack(lengths: Sequence[int], capacity: int, window: int = WINDOW) -> list[list[int]]:
    """First-fit-decreasing: indices of `lengths`, grouped so that no group exceeds `capacity`.

    Deterministic. Works in windows, so a large dataset keeps most of its shuffled order.
    """
    packs: list[list[int]] = []
    for start in range(0, len(lengths), window):
        members = range(start, min(start + window, len(lengths)))
        packs.extend(_first_fit(sorted(members, key=lambda i: (-lengths[i], i)), lengths, capacity))
    return packs


def _first_fit(order: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """A tree of the free space in each bin finds the first that fits in log time."""
    leaves = 1 << max(0, len(order) - 1).bit_length()
    free = [capacity] * (2 * leaves)
    bins: list[list[int]] = []
    for index in order:
        size = lengths[index]
        if size > capacity:
            raise ValueError(f"a sequence of {size} tokens does not fit in {capacity}")
        node = 1
        while node < leaves:
            node = 2 * node if free[2 * node] >= size else 2 * node + 1
        if node - leaves == len(bins):
            bins.append([])
        bins[node - leaves].append(index)
        free[node] -= size
        while node := node // 2:
            free[node] = max(free[2 * node], free[2 * node + 1])
    return bins


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch.

    Attributes:
        tokens_T, positions_T, segments: what the decoder takes.
        sources_N: positions of the stream that predict a trained token.
        targets_N: those tokens. A segment's last token predicts nothing.
    """

    tokens_T: Tensor
    positions_T: Tensor
    segments: tuple[int, ...]
    sources_N: Tensor
    targets_N: Tensor


def collate(examples: Iterable[Example], device: torch.device) -> Batch:
    examples = tuple(examples)
    segments = tuple(len(example.tokens) for example in examples)
    sources: list[int] = []
    targets: list[int] = []
    start = 0
    for example in examples:
        trained = [i for i, flag in enumerate(example.trained) if flag and i > 0]
        sources.extend(start + i - 1 for i in trained)
        targets.extend(example.tokens[i] for i in trained)
        start += len(example.tokens)
    return Batch(
        tokens_T=torch.tensor([t for e in examples for t in e.tokens], device=device),
        positions_T=torch.cat([torch.arange(n) for n in segments]).to(device),
        segments=segments,
        sources_N=torch.tensor(sources, dtype=torch.long, device=device),
        targets_N=torch.tensor(targets, dtype=torch.long, device=device),
    )
