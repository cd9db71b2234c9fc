"""Loss scaling for float16, whose smallest gradients would be zero (arXiv:1710.03740, § 3.2)."""

from collections.abc import Iterable

import torch
from torch import Tensor

_FIRST_SCALE = 2.0**16
_GROWTH_INTERVAL = 2000
_SMALLEST = 1.0


class LossScaler:
    """Halves the scale when a gradient overflows, doubles it after 2,000 steps without.

    Attributes:
        scale: what losses are multiplied by.
        skipped: updates left out because their gradient had overflowed.
    """

    def __init__(self, scale: float = _FIRST_SCALE, growth_interval: int = _GROWTH_INTERVAL):
        self.scale = scale
        self.skipped = 0
        self._interval = growth_interval
        self._good = 0

    def unscale(self, gradients: Iterable[Tensor]) -> None:
        torch._foreach_mul_(list(gradients), 1.0 / self.scale)

    def update(self, *, finite: bool) -> bool:
        """Learn how the step went. Returns whether it may be applied."""
        if finite:
            self._good += 1
            if self._good % self._interval == 0:
                self.scale *= 2
            return True
        self._good = 0
        self.skipped += 1
        self.scale = max(self.scale / 2, _SMALLEST)
        return False

    @property
    def exhausted(self) -> bool:
        """The scale cannot fall further: what overflows now does so by itself."""
        return self.scale <= _SMALLEST

    def state(self) -> Tensor:
        return torch.tensor([self.scale, self.skipped, self._good], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        scale, skipped, good = state.tolist()
        self.scale, self.skipped, self._good = scale, int(skipped), int(good)
