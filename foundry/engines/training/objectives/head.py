"""The projection of hidden states to logits, a block at a time.

Shapes: N positions, C positions of a chunk, H hidden, V vocabulary, W tokens of a block of the
vocabulary, R rank of the head's adapter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_ROWS = 2048
_MAX_LOGITS = 2**23  # 32 MiB of float32
# Smaller products leave a large card idle: 1 GiB of float32.
_MAX_LOGITS_ON_GPU = 2**28
_MIN_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Head:
    """logits = softcap·tanh(scale·(h·weightᵀ + low·adapterᵀ) / softcap) / temperature.

    What is None is left out.

    Attributes:
        weight_VH: the output projection.
        softcap: of Gemma 2 (arXiv:2408.00118, § 2), > 0.
        scale: of Granite and Cohere, > 0.
        low_NR: what the head's adapter multiplies: (alpha/rank)·h·Aᵀ.
        adapter_VR: the adapter's outer factor B.
        temperature: of the softmax, > 0.
    """

    weight_VH: Tensor
    softcap: float | None = None
    scale: float = 1.0
    low_NR: Tensor | None = None
    adapter_VR: Tensor | None = None
    temperature: float = 1.0

    @property
    def bending(self) -> "Bending":
        return Bending(self.softcap, self.scale, self.temperature)


@dataclass(frozen=True, slots=True)
class Logits:
    """Logits of a chunk of positions and a block of the vocabulary, float32 or wider.

    Attributes:
        slope_CW: derivative of the soft cap; None: it is 1 everywhere.
    """

    values_CW: Tensor
    slope_CW: Tensor | None


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Positions whose logits over the whole vocabulary exist at one time."""
    logits = _MAX_LOGITS if device.type == "cpu" else _MAX_LOGITS_ON_GPU
    return max(64, min(_MAX_ROWS, logits // vocab_size))


def chunk_vocabulary(vocab_size: int, rows: int) -> int:
    """Tokens of the vocabulary whose logits exist at one time, of `rows` positions."""
    return min(vocab_size, max(_MIN_BLOCK, _MAX_LOGITS // max(rows, 1)))


def widen(dtype: torch.dtype) -> torch.dtype:
    """The type of sums over the vocabulary."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, slots=True)
class Bending:
    """What happens to the product; the fields are those of `Head`."""

    softcap: float | None
    scale: float
    temperature: float

    @property
    def is_identity(self) -> bool:
        """Whether the logits are the product itself."""
        return self.softcap is None and self.scale == self.temperature

    def apply(self, product_CW: Tensor) -> Logits:
        """Scale, cap and divide, in place where possible."""
        wide = product_CW.to(widen(product_CW.dtype))
        factor = self.scale if self.softcap is not None else self.scale / self.temperature
        if factor != 1.0:
            wide.mul_(factor)
        if self.softcap is None:
            return Logits(wide, None)
        bent = wide.div_(self.softcap).tanh_()
        slope = bent.square().neg_().add_(1.0)
        return Logits(bent.mul_(self.softcap / self.temperature), slope)

    def revert(self, delta_CW: Tensor, slope_CW: Tensor | None) -> Tensor:
        """The gradient of the product from that of the logits, in place."""
        if slope_CW is not None:
            delta_CW.mul_(slope_CW)
        factor = self.scale / self.temperature
        return delta_CW if factor == 1.0 else delta_CW.mul_(factor)


def as_columns(values: Tensor) -> Tensor:
    """Shape (N, K) from (N, K) or (N,)."""
    return values if values.dim() == 2 else values.unsqueeze(-1)
