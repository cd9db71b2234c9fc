"""Direct preference optimisation (arXiv:2305.18290).

Shapes: N target tokens, B pairs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from foundry.engines.training.objectives.objective import (
    LOSS,
    Loss,
    per_token,
    sum_by_segment,
    weigh,
)
from foundry.engines.training.objectives.policy import REFERENCE_LOG_PROBS
from foundry.engines.training.packing import Batch
from foundry.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Dpo:
    """The segments of the batch alternate: a chosen reply, then the rejected one of its pair.

    With h = (logp - ref) of the chosen minus that of the rejected reply, summed over tokens, and s
    the logistic function: sigmoid: -(1-ε)·log s(β·h) - ε·log s(-β·h); ipo: (h - 1/(2β))²
    (arXiv:2310.12036, eq. 17).

    Attributes:
        beta: how far the model may move from the reference, > 0.
        label_smoothing: ε, share of the pairs that are labelled the wrong way round, below 0.5.
        length_norm: divide each reply's sum by its number of tokens.
    """

    beta: float = 0.1
    kind: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0
    length_norm: bool = False

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        """Sum over the pairs; log 2 each where the model equals the reference (sigmoid)."""
        if len(batch.segments) % 2:
            raise InvalidRequest("pairs need a rejected reply for every chosen one")
        gap = log_probs_N - per_token(batch, REFERENCE_LOG_PROBS).to(log_probs_N)
        sums = sum_by_segment(weigh(gap, batch), batch)
        if self.length_norm:
            counted = weigh(torch.ones_like(gap), batch)
            sums = sums / sum_by_segment(counted, batch).clamp(min=1)
        chosen_B, rejected_B = sums.view(-1, 2).unbind(-1)
        margin_B = chosen_B - rejected_B
        total = self._cost(margin_B).sum()
        rewards = self.beta * torch.stack((chosen_B, rejected_B, margin_B)).detach()
        chosen, rejected, margin = rewards.sum(-1).unbind()
        return Loss(
            total,
            {
                LOSS: total.detach(),
                "pairs:sum": rewards.new_tensor(float(len(margin_B))),
                "chosen_reward:sum": chosen,
                "rejected_reward:sum": rejected,
                "margin:sum": margin,
                "accuracy:sum": (margin_B > 0).sum().to(rewards.dtype),
            },
        )

    def _cost(self, margin_B: Tensor) -> Tensor:
        if self.kind == "ipo":
            return (margin_B - 1 / (2 * self.beta)).square()
        scaled_B = self.beta * margin_B
        right, wrong = functional.logsigmoid(scaled_B), functional.logsigmoid(-scaled_B)
        return -(1 - self.label_smoothing) * right - self.label_smoothing * wrong
