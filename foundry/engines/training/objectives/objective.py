"""What every objective is: a pure function of log-probabilities and a batch.

Shapes: N positions, K targets of a position.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from foundry.engines.training.packing import Batch
from foundry.errors import InvalidRequest

LOSS = "loss:sum"
_REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda values, sizes: values.sum(),
    "mean": lambda values, sizes: (values * sizes).sum() / sizes.sum().clamp(min=1),
    "min": lambda values, sizes: values.min(),
    "max": lambda values, sizes: values.max(),
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
    names = dict.fromkeys(name for metrics in found for name in metrics)
    result: list[Tensor] = []
    for name in names:
        present = [(m[name], size) for m, size in zip(found, sizes, strict=True) if name in m]
        values = torch.stack([value.double() for value, _ in present])
        weights = torch.tensor([size for _, size in present], device=values.device)
        result.append(_REDUCTIONS[name.rpartition(":")[2]](values, weights))
    # One transfer from the device for all of them.
    return dict(zip(names, torch.stack(result).tolist(), strict=True)) if result else {}


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
