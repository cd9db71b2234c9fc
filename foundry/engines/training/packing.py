"""Sequences laid end to end: which share a pack, and the tensors of a micro-batch.

Shapes: T tokens of a stream, N trained positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foundry.engines.training.messages.targets import Example

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
        sources_N: positions of the stream that predict a target, in rising order.
        targets_N: those tokens; shape (N, K) where a position has several. A segment's last token
            predicts nothing.
        weights_N: of the targets, in their shape, of any sign; None: 1 each.
        values: further numbers of every target by name, such as `advantages`; what an objective
            needs, it names.
    """

    tokens_T: Tensor
    positions_T: Tensor
    segments: tuple[int, ...]
    sources_N: Tensor
    targets_N: Tensor
    weights_N: Tensor | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def targets_per_segment(self) -> tuple[int, ...]:
        """How many of the N positions lie in each segment."""
        ends = torch.tensor(self.segments).cumsum(0)
        owners = torch.bucketize(self.sources_N.cpu(), ends, right=True)
        return tuple(torch.bincount(owners, minlength=len(self.segments)).tolist())

    @property
    def trained_tokens(self) -> int:
        """Positions whose weight is not zero."""
        if self.weights_N is None:
            return len(self.targets_N)
        live = self.weights_N != 0
        return int((live if live.dim() == 1 else live.any(-1)).sum())


def join(batches: Sequence[Batch]) -> Batch:
    """Several micro-batches as one; they must agree in which values they carry."""
    starts = [0]
    for batch in batches[:-1]:
        starts.append(starts[-1] + len(batch.tokens_T))
    names = batches[0].values
    weighted = any(batch.weights_N is not None for batch in batches)
    return Batch(
        tokens_T=torch.cat([batch.tokens_T for batch in batches]),
        positions_T=torch.cat([batch.positions_T for batch in batches]),
        segments=tuple(length for batch in batches for length in batch.segments),
        sources_N=torch.cat([b.sources_N + s for b, s in zip(batches, starts, strict=True)]),
        targets_N=torch.cat([batch.targets_N for batch in batches]),
        weights_N=torch.cat([_weights(batch) for batch in batches]) if weighted else None,
        values={name: torch.cat([batch.values[name] for batch in batches]) for name in names},
    )


def _weights(batch: Batch) -> Tensor:
    if batch.weights_N is not None:
        return batch.weights_N
    return torch.ones(batch.targets_N.shape, device=batch.targets_N.device)


def collate(examples: Iterable[Example], device: torch.device) -> Batch:
    """The micro-batch of some examples; only trained positions are among the N."""
    examples = tuple(examples)
    segments = tuple(len(example.tokens) for example in examples)
    sources: list[int] = []
    targets: list[int] = []
    weights: list[float] = []
    start = 0
    for example in examples:
        trained = [i for i, weight in enumerate(example.weights) if weight and i > 0]
        sources.extend(start + i - 1 for i in trained)
        targets.extend(example.tokens[i] for i in trained)
        weights.extend(float(example.weights[i]) for i in trained)
        start += len(example.tokens)
    plain = all(weight == 1.0 for weight in weights)
    return Batch(
        tokens_T=torch.tensor([t for e in examples for t in e.tokens], device=device),
        positions_T=torch.cat([torch.arange(n) for n in segments]).to(device),
        segments=segments,
        sources_N=torch.tensor(sources, dtype=torch.long, device=device),
        targets_N=torch.tensor(targets, dtype=torch.long, device=device),
        weights_N=None if plain else torch.tensor(weights, device=device),
    )
