"""Policy gradients on sampled tokens.

logp is a token's log-probability, q the one that it was sampled with, r = exp(logp - q) the ratio
of the two probabilities, A the token's advantage.
Losses are minus the sum over tokens; a token's weight, where the batch has weights, multiplies it.
The bounds are of the ratio itself, not distances from 1; per-token tensors of their names override
them.

Shapes: N target tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from foundry.engines.training.objectives.objective import (
    LOSS,
    LinearObjective,
    Loss,
    per_token,
    segment_of_target,
    sum_by_segment,
    weigh,
)
from foundry.engines.training.packing import Batch

ADVANTAGES = "advantages"
SAMPLING_LOG_PROBS = "sampling_log_probs"
REFERENCE_LOG_PROBS = "reference_log_probs"
RATIO_MASK = "sequence_ratio_mask"
LOW, HIGH = "clip_low_threshold", "clip_high_threshold"


def _negative_sum(objective_N: Tensor, batch: Batch, **metrics: Tensor) -> Loss:
    total = -weigh(objective_N, batch).sum()
    named = {name.replace("__", ":"): value.detach() for name, value in metrics.items()}
    return Loss(total, {LOSS: total.detach(), **named})


def _log_ratio(log_probs_N: Tensor, batch: Batch) -> Tensor:
    return log_probs_N - per_token(batch, SAMPLING_LOG_PROBS).to(log_probs_N)


def _bounds(batch: Batch, low: float, high: float, like: Tensor) -> tuple[Tensor, Tensor]:
    default = {LOW: low, HIGH: high}
    lower, upper = (
        batch.values[name].to(like) if name in batch.values else like.new_tensor(value)
        for name, value in default.items()
    )
    return lower, upper


def _mean(values_N: Tensor) -> Tensor:
    return values_N.detach().mean() if len(values_N) else values_N.new_zeros(())


def _largest(values_N: Tensor) -> Tensor:
    return values_N.detach().max() if len(values_N) else values_N.new_zeros(())


def _clip(ratio_N: Tensor, advantages_N: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """min(r·A, clip(r)·A) (arXiv:1707.06347, eq. 7)."""
    clipped = torch.minimum(torch.maximum(ratio_N, bounds[0]), bounds[1])
    return torch.minimum(ratio_N * advantages_N, clipped * advantages_N)


def _share_outside(ratio_N: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    return _mean(((ratio_N < bounds[0]) | (ratio_N > bounds[1])).to(ratio_N.dtype))


def k3(log_probs_N: Tensor, reference_N: Tensor) -> Tensor:
    """KL(π ‖ reference) of a sampled token: unbiased, never negative (J. Schulman, 2020)."""
    gap = reference_N - log_probs_N
    return gap.exp() - gap - 1


@dataclass(frozen=True, slots=True)
class Reinforce(LinearObjective):
    """A·logp, for tokens sampled by the very weights that are trained."""

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        advantages = per_token(batch, ADVANTAGES).to(log_probs_N)
        return _negative_sum(advantages * log_probs_N, batch)

    def weights(self, batch: Batch) -> Tensor | None:
        return weigh(per_token(batch, ADVANTAGES), batch)


@dataclass(frozen=True, slots=True)
class ImportanceSampling:
    """r·A: unbiased for tokens that older weights have sampled."""

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        ratio = _log_ratio(log_probs_N, batch).exp()
        objective = ratio * per_token(batch, ADVANTAGES).to(ratio)
        return _negative_sum(objective, batch, ratio__mean=_mean(ratio), ratio__max=_largest(ratio))


@dataclass(frozen=True, slots=True)
class Ppo:
    """min(r·A, clip(r, low, high)·A) - kl_coef·k3 (arXiv:1707.06347, arXiv:2402.03300).

    Attributes:
        kl_coef: above 0 the batch needs `reference_log_probs`.
    """

    clip_low_threshold: float = 0.8
    clip_high_threshold: float = 1.2
    kl_coef: float = 0.0

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        ratio = _log_ratio(log_probs_N, batch).exp()
        bounds = _bounds(batch, self.clip_low_threshold, self.clip_high_threshold, ratio)
        objective = _clip(ratio, per_token(batch, ADVANTAGES).to(ratio), bounds)
        metrics = {
            "ratio__mean": _mean(ratio),
            "ratio__max": _largest(ratio),
            "clip_fraction__mean": _share_outside(ratio, bounds),
        }
        if self.kl_coef:
            distance = k3(log_probs_N, per_token(batch, REFERENCE_LOG_PROBS).to(ratio))
            objective = objective - self.kl_coef * distance
            metrics["kl__mean"] = _mean(distance)
        return _negative_sum(objective, batch, **metrics)


@dataclass(frozen=True, slots=True)
class Cispo:
    """sg(clip(r, low, high))·A·logp (arXiv:2506.13585): a clipped token still has a gradient."""

    clip_low_threshold: float = 0.8
    clip_high_threshold: float = 1.2

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        ratio = _log_ratio(log_probs_N, batch).exp().detach()
        bounds = _bounds(batch, self.clip_low_threshold, self.clip_high_threshold, ratio)
        clipped = torch.minimum(torch.maximum(ratio, bounds[0]), bounds[1])
        objective = clipped * per_token(batch, ADVANTAGES).to(ratio) * log_probs_N
        return _negative_sum(
            objective,
            batch,
            ratio__mean=_mean(ratio),
            ratio__max=_largest(ratio),
            clip_fraction__mean=_share_outside(ratio, bounds),
        )


@dataclass(frozen=True, slots=True)
class Gspo:
    """PPO with one ratio per sequence, the geometric mean of its tokens' (arXiv:2507.18071, § 4.3).

    s = exp(mean(sg logp - q)) over the tokens of `sequence_ratio_mask` (all, where the batch has
    none); each token has the ratio s·exp(logp - sg logp).
    """

    clip_low_threshold: float = 1 - 3e-4
    clip_high_threshold: float = 1 + 4e-4

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        gap = _log_ratio(log_probs_N, batch).detach()
        mask = batch.values.get(RATIO_MASK)
        mask = torch.ones_like(gap) if mask is None else mask.to(gap)
        means = sum_by_segment(gap * mask, batch) / sum_by_segment(mask, batch).clamp(min=1)
        sequence = means.exp()[segment_of_target(batch)]
        ratio = sequence * (log_probs_N - log_probs_N.detach()).exp()
        bounds = _bounds(batch, self.clip_low_threshold, self.clip_high_threshold, ratio)
        objective = _clip(ratio, per_token(batch, ADVANTAGES).to(ratio), bounds)
        return _negative_sum(
            objective,
            batch,
            ratio__mean=_mean(ratio),
            clip_fraction__mean=_share_outside(ratio, bounds),
        )


@dataclass(frozen=True, slots=True)
class Dro:
    """A·logp - ½·beta·(logp - q)²: DRO (arXiv:2405.19107) with advantages for its value."""

    beta: float = 0.05

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        gap = _log_ratio(log_probs_N, batch)
        advantages = per_token(batch, ADVANTAGES).to(gap)
        objective = advantages * log_probs_N - 0.5 * self.beta * gap.square()
        return _negative_sum(objective, batch, gap__mean=_mean(gap))
