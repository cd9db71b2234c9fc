"""Root-mean-square normalisation (arXiv:1910.07467)."""

import torch
from torch import Tensor, nn

from foundry.engines.training.decoder.casting import CastOnce
from foundry.engines.training.decoder.kernels import scaled_norm


class RMSNorm(nn.Module):
    """x / rms(x) · (weight + offset), over the last dimension.

    Args:
        offset: Gemma stores its weights less one.
    """

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps
        self.offset = offset
        self._narrow_weight = CastOnce()

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """In `dtype`, to which it is rounded once; None: in that of x."""
        weight: Tensor = self.weight
        if self.offset:
            # Added in float32, as transformers and vLLM do: in bfloat16 15.8125 + 1 is 16.75.
            wide = torch.promote_types(weight.dtype, torch.float32)
            weight = weight.to(wide) + self.offset
        elif x.is_cuda:
            # Its kernel takes one type only; what follows elsewhere takes the weight as it is.
            weight = self._narrow_weight(weight, dtype or x.dtype)
        return scaled_norm(x, weight, self.eps, dtype)
