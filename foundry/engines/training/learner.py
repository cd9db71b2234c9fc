"""A model under training: its trainable parameters, AdamW, one step at a time.

Where the batches come from, how many there are and what the learning rate is, the caller decides:
fine-tuning walks through epochs, a DiLoCo worker through the shards it was given.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from foundry.engines.training.losses import cross_entropy_sum
from foundry.engines.training.packing import Batch
from foundry.errors import TrainingDiverged

_OPTIMISER_STATE = ("step", "exp_avg", "exp_avg_sq")


class CausalModel(Protocol):
    """Hidden states of flat token streams, and the projection to the vocabulary.

    Attributes:
        logit_softcap: logits are softcap·tanh(lm_head(hidden)/softcap); None: lm_head(hidden).
    """

    lm_head: nn.Linear
    logit_softcap: float | None

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, segments: Sequence[int]) -> Tensor:
        """Shape (T, H)."""

    def train(self, mode: bool = True) -> object: ...


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """One optimiser step.

    Attributes:
        loss: mean over the trained tokens, nats.
        grad_norm: before clipping.
        tokens, trained_tokens: of all micro-batches.
    """

    loss: float
    grad_norm: float
    tokens: int
    trained_tokens: int


class Learner:
    """Owns the optimiser; the parameters stay float32 whatever the forward pass computes in."""

    def __init__(
        self,
        model: CausalModel,
        parameters: Mapping[str, nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        grad_clip: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self._model = model
        self._grad_clip = grad_clip or float("inf")
        self.parameters = dict(parameters)
        self._optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=lr, weight_decay=weight_decay, betas=betas, fused=True
        )

    def step(self, batches: Sequence[Batch], lr: float) -> StepOutcome:
        """One update from the micro-batches of one batch.

        Raises:
            TrainingDiverged: loss or gradient is no finite number; no parameter has changed.
        """
        trained = sum(len(batch.targets_N) for batch in batches)
        self._model.train()
        total = 0.0
        for batch in batches:
            loss = self._loss_sum(batch) / trained
            torch.autograd.backward(loss)
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self._grad_clip).item()
        if not (math.isfinite(total) and math.isfinite(norm)):
            self._optimiser.zero_grad(set_to_none=True)
            raise TrainingDiverged(
                f"the training diverged: the loss is {total:g} and the gradient norm {norm:g} at a "
                f"learning rate of {lr:g}; lower lr, set grad_clip, warm up for longer, or look "
                "for bad rows in the dataset"
            )
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return StepOutcome(total, norm, sum(len(batch.tokens_T) for batch in batches), trained)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> float | None:
        """Mean loss over the trained tokens; None without any."""
        self._model.train(False)
        total, trained = 0.0, 0
        for batch in batches:
            total += self._loss_sum(batch).item()
            trained += len(batch.targets_N)
        return total / trained if trained else None

    def optimiser_state(self) -> dict[str, Tensor]:
        """AdamW's moments and step counts, as `<kind>.<parameter>`."""
        return {
            f"{key}.{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self._optimiser.state.get(parameter, {}).items()
        }

    def load_optimiser_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse; a parameter without moments in `tensors` starts anew."""
        for name, parameter in self.parameters.items():
            self._optimiser.state.pop(parameter, None)
            if f"step.{name}" in tensors:
                # AdamW updates its moments in place: they must not be the caller's.
                self._optimiser.state[parameter] = {
                    key: tensors[f"{key}.{name}"].clone().to(parameter.device)
                    for key in _OPTIMISER_STATE
                }

    def _loss_sum(self, batch: Batch) -> Tensor:
        hidden_TH = self._model(batch.tokens_T, batch.positions_T, batch.segments)
        hidden_NH = hidden_TH.index_select(0, batch.sources_N)
        return cross_entropy_sum(
            hidden_NH,
            self._model.lm_head.weight,
            batch.targets_N,
            softcap=self._model.logit_softcap,
        )
