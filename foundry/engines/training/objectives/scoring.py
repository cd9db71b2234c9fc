"""From hidden states to what an objective says of them, over the cheapest path that it allows.

Shapes: T tokens of a stream, N positions that predict, K targets of a position, H hidden.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foundry.engines.training.objectives.cross_entropy import weighted_cross_entropy
from foundry.engines.training.objectives.head import Head
from foundry.engines.training.objectives.log_probs import token_log_probs
from foundry.engines.training.objectives.objective import (
    LOSS,
    AnyObjective,
    LinearObjective,
    WeightedSum,
)
from foundry.engines.training.packing import Batch


@dataclass(frozen=True, slots=True)
class Score:
    """One micro-batch under an objective.

    Attributes:
        total: to be minimised, times the factor, shape (), with its gradient.
        log_probs_N: of the targets, detached, float32 or wider.
        metrics: as of `Loss`.
    """

    total: Tensor
    log_probs_N: Tensor
    metrics: Mapping[str, Tensor]


def score(
    hidden_NH: Tensor, head: Head, batch: Batch, objective: AnyObjective, factor: float = 1.0
) -> Score:
    """Apply an objective to the hidden states of the positions that predict.

    Args:
        factor: of the total, not of the metrics.
    """
    if isinstance(objective, WeightedSum):
        return _score_sum(hidden_NH, head, batch, objective, factor)
    if isinstance(objective, LinearObjective):
        return _score_linear(hidden_NH, head, batch, objective, factor)
    log_probs = token_log_probs(hidden_NH, head, batch.targets_N)
    loss = objective(log_probs, batch)
    metrics = {LOSS: loss.total.detach(), **loss.metrics}
    return Score(loss.total * factor, log_probs.detach(), metrics)


def _score_linear(
    hidden_NH: Tensor, head: Head, batch: Batch, objective: LinearObjective, factor: float
) -> Score:
    total, log_probs = weighted_cross_entropy(
        hidden_NH, head, batch.targets_N, objective.weights(batch), factor
    )
    with torch.no_grad():
        metrics = objective(log_probs, batch).metrics
    return Score(total, log_probs, metrics)


def _score_sum(
    hidden_NH: Tensor, head: Head, batch: Batch, objective: WeightedSum, factor: float
) -> Score:
    """The log-probabilities are those at temperature 1, or of the first part if none has it."""
    total = hidden_NH.new_zeros((), dtype=torch.float32)
    metrics: dict[str, Tensor] = {}
    found: dict[float, Tensor] = {}
    for share, temperature, part in objective.parts:
        if share == 0:
            continue
        at = replace(head, temperature=temperature)
        scored = score(hidden_NH, at, batch, part, share * factor)
        total = total + scored.total
        metrics |= scored.metrics
        found.setdefault(temperature, scored.log_probs_N)
    log_probs = found.get(1.0, next(iter(found.values())))
    return Score(total, log_probs, metrics | {LOSS: total.detach() / factor})
