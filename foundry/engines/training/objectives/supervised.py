"""Cross entropy as an objective."""

from dataclasses import dataclass

from torch import Tensor

from foundry.engines.training.objectives.objective import LOSS, LinearObjective, Loss, weigh
from foundry.engines.training.packing import Batch


@dataclass(frozen=True, slots=True)
class CrossEntropy(LinearObjective):
    """Maximise Σ w·logp. Weights may be fractions and negative: custom losses pass -dC/dlogp."""

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        total = -weigh(log_probs_N, batch).sum()
        return Loss(total, {LOSS: total.detach()})

    def weights(self, batch: Batch) -> Tensor | None:
        return batch.weights_N
