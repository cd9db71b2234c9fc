"""Weights in the type of the computation, cast once per change and not once per use.

A trained weight is kept in float32 (its master); matrix products take it in half precision. Cast
anew in every layer and pass, autograd would keep one copy per use until its backward pass.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function


class CastOnce:
    """The last cast of one weight.

    It is made again when the weight has changed, which its version tells. Optimisers whose fused
    kernels leave the version alone raise it themselves (`torch.autograd.graph.increment_version`).
    """

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._version = -1
        self._narrow: Tensor | None = None

    def __call__(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight in `dtype`; gradients reach it in its own type."""
        if weight.dtype == dtype:
            self._narrow = None
            return weight
        narrow = self._narrow
        fresh = self._source is weight and self._version == weight._version
        if narrow is None or not fresh or narrow.dtype != dtype or narrow.device != weight.device:
            narrow = weight.detach().to(dtype)
            self._source, self._version, self._narrow = weight, weight._version, narrow
        if not (weight.requires_grad and torch.is_grad_enabled()):
            return narrow
        apply = cast(Callable[..., Tensor], _Stand.apply)
        return apply(weight, narrow)


class _Stand(Function):
    """The narrow copy stands in for the weight; its gradient is handed on."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, narrow: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return narrow.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].to(ctx.dtype), None
