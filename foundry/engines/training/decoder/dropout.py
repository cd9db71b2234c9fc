"""Random numbers of one run, apart from every other's.

A mask is a function of the run's seed, the number of the pass and that of the place which asks.
Nothing global is drawn from, so runs in one process do not disturb each other; a recomputed layer
drops what it dropped the first time; and the state of a run is one integer.
"""

import numpy as np
import torch
from torch import Tensor


class Draws:
    """The dropout masks of one run.

    Attributes:
        passes: forward passes begun; with the seed it decides all masks.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.passes = 0

    def begin_pass(self) -> None:
        """New masks from now on."""
        self.passes += 1

    def mask(self, x: Tensor, share: float, place: int, passes: int | None = None) -> Tensor:
        """Zero for a share of the values; the others are scaled up to keep the mean.

        Args:
            passes: number of the pass; None: the one that was begun last.
        """
        number = self.passes if passes is None else passes
        key = np.random.SeedSequence([self._seed, number, place]).generate_state(1, np.uint64)
        generator = torch.Generator(x.device).manual_seed(int(key[0]) >> 1)
        mask = torch.empty_like(x).bernoulli_(1 - share, generator=generator)
        return mask.div_(1 - share)

    def dropout(self, x: Tensor, share: float, place: int, passes: int | None = None) -> Tensor:
        """Multiply by the mask (arXiv:1207.0580)."""
        return x * self.mask(x, share, place, passes)
