"""Cross entropy as an objective."""

from dataclasses import dataclass

from torch import Tensor

from foundry.engines.training.objectives.objective import LOSS, Loss, weigh
from foundry.engines.training.packing import Batch


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Maximise Σ w·ℓ. Weights may be fractions and negative: custom losses pass -dC/dℓ."""

    def __call__(self, log_probs_N: Tensor, batch: Batch) -> Loss:
        total = -weigh(log_probs_N, batch).sum()
        return Loss(total, {LOSS: total.detach()})

    def weights(self, batch: Batch) -> Tensor | None:
        return batch.weights_N
