"""What an optimiser step is told, and what every optimiser can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdamParams:
    """AdamW's numbers for one step (arXiv:1711.05101).

    Attributes:
        lr: learning rate, 0 or more.
        beta1, beta2: decay of the moments, 0 or more, below 1.
        eps: added to the root of the second moment, above 0.
        weight_decay: decoupled, 0 or more.
        grad_clip_norm: largest norm of the gradient; 0: no limit.
    """

    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


class Optimiser(Protocol):
    """Updates its parameters from their `grad`, in place."""

    def step(self, adam: AdamParams) -> None:
        """One update; parameters without a gradient stay. Raises their version."""

    def state(self) -> dict[str, Tensor]:
        """Everything kept between steps, as `<kind>.<parameter>`; the tensors themselves."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse, from copies; a parameter without a state in `tensors` starts anew."""
