"""Root-mean-square normalisation (arXiv:1910.07467)."""

import torch
from torch import Tensor, nn

from foundry.engines.training.decoder.kernels import scaled_norm


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return scaled_norm(x, self.weight, self.eps)
