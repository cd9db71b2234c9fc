"""A linear projection with the low-rank adapter beside it (arXiv:2106.09685)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry.engines.training.decoder.casting import CastOnce
from foundry.engines.training.decoder.dropout import Draws
from foundry.engines.training.decoder.kernels import (
    Activation,
    activate,
    gated_projection,
    lora_projection,
)


class Projection(nn.Module):
    """y = x·Wᵀ (+ bias), plus (alpha/rank)·x·Aᵀ·Bᵀ once an adapter is attached."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        self.scale = 0.0
        self.dropout = 0.0
        self._narrow_weight = CastOnce()

    def attach(
        self,
        rank: int,
        alpha: int,
        dropout: float,
        generator: torch.Generator,
        draws: Draws,
        place: int,
    ) -> None:
        """Add an adapter that changes nothing yet: B is zero.

        A is drawn on the CPU, so one seed gives the same adapter on every device.

        Args:
            draws, place: of the dropout masks; no other projection has the same place.
        """
        outputs, inputs = self.weight.shape
        a = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
        self.lora_A = nn.Parameter(a.to(self.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, device=self.weight.device))
        self.scale, self.dropout = alpha / rank, dropout
        self._draws, self._place = draws, place

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self._base(x.dtype)
        if self.lora_A is None or self.lora_B is None:
            return functional.linear(x, weight, bias)
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if self.dropout and self.training:
            dropped = self._draws.dropout(x, self.dropout, self._place)
            update = functional.linear(functional.linear(dropped, a), b)
            return functional.linear(x, weight, bias) + self.scale * update
        return lora_projection(x, weight, a, b, self.scale, bias)

    def forward_gated(self, gate: Tensor, up: Tensor, activation: Activation = "silu") -> Tensor:
        """The projection of act(gate)·up, which is not kept for the backward pass."""
        if self.dropout and self.training:
            return cast(Tensor, self(activate(gate, activation) * up))
        a = b = None
        if self.lora_A is not None and self.lora_B is not None:
            a, b = self.lora_A.to(gate.dtype), self.lora_B.to(gate.dtype)
        weight, bias = self._base(gate.dtype)
        return gated_projection(gate, up, weight, a, b, self.scale, bias, activation)

    def _base(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self._narrow_weight(self.weight, dtype), None if self.bias is None else self.bias.to(
            dtype
        )
