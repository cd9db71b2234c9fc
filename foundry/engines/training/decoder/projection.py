"""A linear projection with the low-rank adapter beside it (arXiv:2106.09685)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry.engines.training.decoder.casting import CastOnce
from foundry.engines.training.decoder.dropout import Draws
from foundry.engines.training.decoder.kernels import (
    Activation,
    Adapted,
    activate,
    gated_projection,
    lora_projections,
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
        part = self.adapt(x.dtype)
        if part is None:
            return functional.linear(x, *self._base(x.dtype))
        mask = None
        if self.drops:
            mask = self._draws.mask(x, self.dropout, self._place)
        return lora_projections(x, [part], mask)[0]

    def forward_gated(self, gate: Tensor, up: Tensor, activation: Activation = "silu") -> Tensor:
        """The projection of act(gate)·up, which is not kept for the backward pass."""
        if self.drops:
            return self.forward(activate(gate, activation) * up)
        a = b = None
        if self.lora_A is not None and self.lora_B is not None:
            a, b = self.lora_A.to(gate.dtype), self.lora_B.to(gate.dtype)
        weight, bias = self._base(gate.dtype)
        return gated_projection(gate, up, weight, a, b, self.scale, bias, activation)

    def _base(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self._narrow_weight(self.weight, dtype), None if self.bias is None else self.bias.to(
            dtype
        )

    def adapt(self, dtype: torch.dtype) -> Adapted | None:
        """Weights and adapter in the type of the computation; None: there is no adapter."""
        if self.lora_A is None or self.lora_B is None:
            return None
        weight, bias = self._base(dtype)
        return Adapted(weight, bias, self.lora_A.to(dtype), self.lora_B.to(dtype), self.scale)

    @property
    def drops(self) -> bool:
        """Whether this pass drops a share of the adapter's input."""
        return bool(self.dropout) and self.training


def project_together(x: Tensor, projections: Sequence[Projection]) -> tuple[Tensor, ...]:
    """The outputs of several projections of one input.

    Their adapters read x once, and the gradients of x are summed in one place.
    """
    parts = [projection.adapt(x.dtype) for projection in projections]
    adapted = [part for part in parts if part is not None]
    # Each adapter drops other values of x, so with dropout they cannot share it.
    if len(adapted) < len(parts) or any(projection.drops for projection in projections):
        return tuple(projection(x) for projection in projections)
    return lora_projections(x, adapted)
