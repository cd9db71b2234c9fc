"""A linear projection with low-rank adapters beside it (arXiv:2106.09685)."""

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
from foundry.engines.training.decoder.routing import Adapter, Route, Routing


class Projection(nn.Module):
    """y = x·Wᵀ (+ bias), plus (alpha/rank)·x·Aᵀ·Bᵀ once an adapter is attached.

    Attributes:
        attached: the adapter whose factors are parameters of this module.
        bank: adapters of several trainings by name, none of them a parameter of this module.
        routing: which rows of a pass each of those acts on; None: the attached adapter acts on all.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight: Tensor = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        self.bank: dict[str, Adapter] = {}
        self.routing: Routing | None = None
        self.attached: Adapter | None = None
        self._narrow_weight, self._narrow_bias = CastOnce(), CastOnce()

    def attach(
        self,
        rank: int,
        alpha: int,
        dropout: float,
        generator: torch.Generator,
        draws: Draws,
        place: int,
    ) -> None:
        """Add an adapter that changes nothing yet, whose factors become parameters.

        Args:
            draws, place: as of `Adapter`.
        """
        self.attached = adapter = Adapter.fresh(
            self.weight,
            rank=rank,
            alpha=alpha,
            dropout=dropout,
            generator=generator,
            draws=draws,
            place=place,
        )
        self.lora_A, self.lora_B = adapter.a_RI, adapter.b_OR

    def forward(self, x: Tensor) -> Tensor:
        return project_together(x, [self])[0]

    def forward_gated(self, gate: Tensor, up: Tensor, activation: Activation = "silu") -> Tensor:
        """The projection of act(gate)·up, which is not kept for the backward pass."""
        routing = self.active_routing
        if routing is None:
            return self._project_gated(gate, up, activation, self.attached)
        parts = zip(torch.split(gate, routing.sizes), torch.split(up, routing.sizes), strict=True)
        return torch.cat(
            [
                self._project_gated(one, other, activation, self.find_adapter(route), route.passes)
                for (one, other), route in zip(parts, routing.routes, strict=True)
            ]
        )

    @property
    def active_routing(self) -> Routing | None:
        """Which rows belong to which adapter; None: one adapter, or none, acts on all.

        Outside of a bank's passes there are no routes, and the base alone acts.
        """
        return self.routing if self.bank and self.routing and self.routing.routes else None

    def find_adapter(self, route: Route) -> Adapter | None:
        """The adapter of a route beside this projection."""
        return None if route.adapter is None else self.bank.get(route.adapter)

    def project(self, x: Tensor, adapter: Adapter | None, passes: int | None = None) -> Tensor:
        """With one adapter, or none, on all rows. Args: passes: as of `Draws.mask`."""
        if adapter is None:
            return functional.linear(x, *self._base(x.dtype))
        mask = adapter.mask(x, passes) if self.drops(adapter) else None
        return lora_projections(x, [self.adapt(x.dtype, adapter)], mask)[0]

    def _project_gated(
        self,
        gate: Tensor,
        up: Tensor,
        activation: Activation,
        adapter: Adapter | None,
        passes: int | None = None,
    ) -> Tensor:
        if self.drops(adapter):
            return self.project(activate(gate, activation) * up, adapter, passes)
        a = b = None
        scale = 0.0
        if adapter is not None:
            a, b, scale = adapter.a_RI.to(gate.dtype), adapter.b_OR.to(gate.dtype), adapter.scale
        weight, bias = self._base(gate.dtype)
        return gated_projection(gate, up, weight, a, b, scale, bias, activation)

    def _base(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        bias = None if self.bias is None else self._narrow_bias(self.bias, dtype)
        return self._narrow_weight(self.weight, dtype), bias

    def adapt(self, dtype: torch.dtype, adapter: Adapter) -> Adapted:
        """Weights and adapter in the type of the computation."""
        weight, bias = self._base(dtype)
        return Adapted(weight, bias, adapter.a_RI.to(dtype), adapter.b_OR.to(dtype), adapter.scale)

    def drops(self, adapter: Adapter | None) -> bool:
        """Whether this pass drops a share of the adapter's input."""
        return adapter is not None and bool(adapter.dropout) and self.training


def project_together(x: Tensor, projections: Sequence[Projection]) -> tuple[Tensor, ...]:
    """The outputs of several projections of one input.

    Their adapters read x once, and the gradients of x are summed in one place.
    """
    routing = next((p.active_routing for p in projections if p.active_routing), None)
    if routing is None:
        return _project_rows(x, projections, [projection.attached for projection in projections])
    outputs = [
        _project_rows(part, projections, [p.find_adapter(route) for p in projections], route.passes)
        for part, route in zip(torch.split(x, routing.sizes), routing.routes, strict=True)
    ]
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))


def _project_rows(
    x: Tensor,
    projections: Sequence[Projection],
    adapters: Sequence[Adapter | None],
    passes: int | None = None,
) -> tuple[Tensor, ...]:
    """Rows that all belong to one adapter of each projection, or to none of it."""
    pairs = list(zip(projections, adapters, strict=True))
    adapted = [p.adapt(x.dtype, adapter) for p, adapter in pairs if adapter is not None]
    # Each adapter drops other values of x, so with dropout they cannot share it.
    if len(adapted) < len(pairs) or any(p.drops(adapter) for p, adapter in pairs):
        return tuple(p.project(x, adapter, passes) for p, adapter in pairs)
    return lora_projections(x, adapted)
