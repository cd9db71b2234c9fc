"""Distillation from a teacher's most likely tokens (arXiv:1503.02531).

Shapes: N positions, K columns: the token of the text, then the teacher's most likely tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from foundry.engines.training.objectives.objective import LOSS, Loss, WeightedSum, per_token
from foundry.engines.training.objectives.supervised import CrossEntropy
from foundry.engines.training.packing import Batch

TEACHER_LOG_PROBS = "teacher_log_probs"


@dataclass(frozen=True, slots=True)
class TopKDivergence:
    """KL(teacher ‖ student) over the teacher's top tokens and one bucket for all others.

    `teacher_log_probs` has the targets' shape, at the same temperature as the student's; minus
    infinity: not one of the teacher's, as in the column of the text's own token.
    """

    def __call__(self, log_probs_NK: Tensor, batch: Batch) -> Loss:
        teacher_NK = per_token(batch, TEACHER_LOG_PROBS).to(log_probs_NK)
        listed = teacher_NK.isfinite()
        p_NK = teacher_NK.exp()
        terms = torch.where(listed, p_NK * (teacher_NK - log_probs_NK), 0.0).sum(-1)
        p_rest = _rest(p_NK.sum(-1))
        student = torch.where(listed, log_probs_NK.exp(), 0.0).sum(-1)
        terms = terms + p_rest * (p_rest.log() - _rest(student).log())
        if batch.weights_N is not None:
            weights = batch.weights_N
            terms = terms * (weights if weights.dim() == 1 else weights.sum(-1))
        total = terms.sum()
        return Loss(total, {LOSS: total.detach(), "kl:sum": total.detach()})


def _rest(sum_N: Tensor) -> Tensor:
    """What is left of 1, never quite nothing: its logarithm is taken."""
    return (1 - sum_N).clamp(min=torch.finfo(sum_N.dtype).eps)


def distillation(alpha: float, temperature: float) -> WeightedSum:
    """alpha·T²·KL(teacher ‖ student) + (1 - alpha)·cross entropy.

    T² keeps the gradients of the two of one size, whatever T is. The batch's weights must be zero
    but in the first column.

    Args:
        alpha: 0 to 1.
        temperature: T > 0 of both softmaxes in the divergence.
    """
    return WeightedSum(
        (
            (alpha * temperature**2, temperature, TopKDivergence()),
            (1 - alpha, 1.0, CrossEntropy()),
        )
    )
