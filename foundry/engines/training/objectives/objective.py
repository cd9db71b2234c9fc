"""What every objective is: a pure function of log-probabilities and a batch.

Shapes: N positions, K targets of a position.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from foundry.engines.training.packing import Batch
from foundry.errors import InvalidRequest

LOSS = "loss:sum"
# Of the values of some batches, each with the number of its positions.
_REDUCTIONS: dict[str, Callable[[Sequence[float], Sequence[int]], float]] = {
    "sum": lambda values, sizes: sum(values),
    "mean": lambda values, sizes: sum(map(operator.mul, values, sizes)) / max(sum(sizes), 1),
    "min": lambda values, sizes: min(values),
    "max": lambda values, sizes: max(values),
}


@dataclass(frozen=True, slots=True)
class Loss:
    """What a batch costs.

    Attributes:
        total: minus the sum of the objective over tokens or sequences, shape ().
        metrics: detached scalars by `name:reduction`; the reduction (sum, mean, min or max) says
            how those of several batches combine.
    """

    total: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """Maps the targets' log-probabilities, shaped as `batch.targets_N`, to a loss."""

    def __call__(self, log_probs_N: Tensor, batch: Batch, /) -> Loss: ...


class LinearObjective(ABC):
    """An objective Σ weight·log-prob whose weights do not depend on the log-probabilities.

    Its gradient is taken while the logits exist, which saves computing them twice.
    """

    __slots__ = ()

    @abstractmethod
    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss: ...

    @abstractmethod
    def weights(self, batch: Batch) -> Tensor | None:
        """Of every log-probability, in the targets' shape; None: 1 each."""


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """Objectives that need log-probabilities at different temperatures.

    Attributes:
        parts: factor, temperature of the softmax, objective.
    """

    parts: tuple[tuple[float, float, Objective], ...]


AnyObjective = Objective | WeightedSum


def combine_metrics(
    found: Sequence[Mapping[str, Tensor]], sizes: Sequence[int]
) -> dict[str, float]:
    """Reduce the metrics of several batches, as their names say.

    Args:
        sizes: positions of each batch; means are weighted by them.
    """
    values = [value.float() for metrics in found for value in metrics.values()]
    # One transfer from the device for all of them.
    numbers = iter(torch.stack(values).tolist() if values else ())
    gathered: dict[str, list[tuple[float, int]]] = {}
    for metrics, size in zip(found, sizes, strict=True):
        for name in metrics:
            gathered.setdefault(name, []).append((next(numbers), size))
    return {
        name: _REDUCTIONS[name.rpartition(":")[2]](*zip(*pairs, strict=True))
        for name, pairs in gathered.items()
    }


def per_token(batch: Batch, name: str) -> Tensor:
    """A named value of every target.

    Raises:
        InvalidRequest: the batch has none of this name.
    """
    if name not in batch.values:
        raise InvalidRequest(f"this objective needs {name} for every target token")
    return batch.values[name]


def weigh(values_N: Tensor, batch: Batch) -> Tensor:
    """Values times the tokens' weights."""
    return values_N if batch.weights_N is None else values_N * batch.weights_N


def sum_by_segment(values_N: Tensor, batch: Batch) -> Tensor:
    """Sums over the targets of each segment, shape (segments,)."""
    sums = values_N.new_zeros(len(batch.segments))
    return sums.index_add(0, segment_of_target(batch), values_N)


def segment_of_target(batch: Batch) -> Tensor:
    """Index of the segment that each target lies in, shape (N,)."""
    counts = torch.tensor(batch.targets_per_segment, device=batch.targets_N.device)
    return torch.repeat_interleave(counts, output_size=len(batch.targets_N))
