"""Cross entropy with known weights: its gradient is taken while the logits exist.

Shapes: N positions, K targets of a position, H hidden, V vocabulary, C positions of a chunk,
R rank of the head's adapter.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from foundry.engines.training.objectives.head import (
    Bending,
    Head,
    as_columns,
    chunk_rows,
    widen,
)

_MAX_PRODUCT = 2**22
# A large card would idle in smaller ones.
_MAX_PRODUCT_ON_GPU = 2**28


def weighted_cross_entropy(
    hidden_NH: Tensor,
    head: Head,
    targets_NK: Tensor,
    weights_NK: Tensor | None = None,
    factor: float = 1.0,
    rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum over positions of -weight·log softmax(logits)[target].

    The logits are never held nor computed twice: where the weight of every log-probability is known
    beforehand, so is the gradient of the logits.

    Args:
        hidden_NH: hidden states of the positions that predict.
        targets_NK: the tokens each position predicts; shape (N,) for one each.
        weights_NK: of the same shape, any sign; None: 1 each.
        factor: of the sum and its gradient.
        rows: positions per chunk.
    Returns:
        The sum, nats, shape (), float32 (float64 for float64 input), zero when N is zero; and the
        log-probabilities in the targets' shape, without a gradient.
    """
    rows = rows or chunk_rows(head.weight_VH.shape[0], hidden_NH.device)
    apply = cast(Callable[..., tuple[Tensor, Tensor]], _ChunkedCrossEntropy.apply)
    total, log_probs = apply(
        hidden_NH,
        head.weight_VH,
        head.low_NR,
        head.adapter_VR,
        as_columns(targets_NK),
        None if weights_NK is None else as_columns(weights_NK),
        factor,
        rows,
        head.bending,
    )
    return total, log_probs.view(targets_NK.shape)


def cross_entropy_sum(
    hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor, rows: int | None = None
) -> Tensor:
    """`weighted_cross_entropy` with weights of 1, and the sum only."""
    return weighted_cross_entropy(hidden_NH, Head(weight_VH), targets_N, rows=rows)[0]


class _ChunkedCrossEntropy(Function):
    """Shares its memory plan with no other operator: one chunk of logits over all of V."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        low_NR: Tensor | None,
        adapter_VR: Tensor | None,
        targets_NK: Tensor,
        weights_NK: Tensor | None,
        factor: float,
        rows: int,
        bending: Bending,
    ) -> tuple[Tensor, Tensor]:
        if factor != 1.0 and hidden_NH.dtype == torch.float16:
            # Its gradients are scaled up lest they vanish, which is too late after rounding.
            ones = torch.ones(targets_NK.shape, device=hidden_NH.device)
            weights_NK = (ones if weights_NK is None else weights_NK) * factor
            factor = 1.0
        grads = _Gradients(hidden_NH, weight_VH, low_NR, adapter_VR, ctx.needs_input_grad)
        wide = widen(hidden_NH.dtype)
        total = torch.zeros((), dtype=wide, device=hidden_NH.device)
        log_probs_NK = torch.empty(targets_NK.shape, dtype=wide, device=hidden_NH.device)
        for start in range(0, hidden_NH.shape[0], rows):
            chunk = slice(start, start + rows)
            product, targets = grads.product(chunk), targets_NK[chunk]
            weights = None if weights_NK is None else weights_NK[chunk].to(wide)
            keeps_narrow = (
                product.is_cuda
                and hidden_NH.dtype == torch.bfloat16
                and bending.is_identity
                and targets.shape[1] == 1
            )
            score = _score_in_place if keeps_narrow else _score_bent
            found, delta = score(product, targets, weights, bending, grads.wanted)
            log_probs_NK[chunk] = found
            total -= (found if weights is None else found * weights).sum()
            if delta is not None:
                grads.add(chunk, delta.to(hidden_NH.dtype))
        grads.multiply(factor)
        ctx.grads = grads.found
        ctx.mark_non_differentiable(log_probs_NK)
        return total * factor, log_probs_NK

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        found: list[Tensor | None] | None = ctx.grads
        if found is None:
            raise RuntimeError("the gradient of the head's weight can be taken once only")
        if found[1] is not None:
            # Handed over: a second owner would make autograd copy what is as large as the head.
            ctx.grads = None
        # For the same reason a factor that is known beforehand belongs into the weights.
        if found[1] is None or grad.item() != 1.0:
            found = [None if part is None else part * grad.to(part.dtype) for part in found]
        return (*found, None, None, None, None, None)


def _score_bent(
    product_CV: Tensor,
    targets_CK: Tensor,
    weights_CK: Tensor | None,
    bending: Bending,
    wanted: bool,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of the targets, and the gradient of the product if wanted."""
    logits = bending.apply(product_CV)
    normaliser = logits.values_CW.logsumexp(-1, keepdim=True)
    found = logits.values_CW.gather(-1, targets_CK).sub_(normaliser)
    if not wanted:
        return found, None
    # The gradient replaces the logits in place: softmax minus the one-hot target.
    delta = logits.values_CW.sub_(normaliser).exp_()
    weights = torch.ones_like(found) if weights_CK is None else weights_CK
    if weights_CK is not None or targets_CK.shape[1] > 1:
        delta.mul_(weights.sum(-1, keepdim=True))
    delta.scatter_add_(-1, targets_CK, weights.neg())
    return found, bending.revert(delta, logits.slope_CW).to(product_CV.dtype)


def _score_in_place(
    product_CV: Tensor,
    targets_C1: Tensor,
    weights_C1: Tensor | None,
    bending: Bending,
    wanted: bool,
) -> tuple[Tensor, Tensor | None]:
    """The same of one target each and logits that are the product: it becomes the gradient.

    A GPU waits for its memory here. Kernels that read and write the product in its own type, with
    float32 between, pass over a third of the bytes.
    """
    log_probs = torch.log_softmax(product_CV, -1, dtype=torch.float32)
    found = log_probs.gather(-1, targets_C1)
    if not wanted:
        return found, None
    delta = torch.exp(log_probs, out=product_CV)
    # Computed in float32: of a certain target, the product's type would leave nothing.
    delta.scatter_(-1, targets_C1, torch.expm1(found).to(delta.dtype))
    return found, delta if weights_C1 is None else delta.mul_(weights_C1)


class _Gradients:
    """Sums of the gradients of whatever the head's product is made of, chunk by chunk."""

    def __init__(
        self,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        low_NR: Tensor | None,
        adapter_VR: Tensor | None,
        needed: tuple[bool, ...],
    ) -> None:
        dtype = hidden_NH.dtype
        self._rows = (hidden_NH, low_NR)
        self._factors = (
            weight_VH.to(dtype),
            None if adapter_VR is None else adapter_VR.to(dtype),
        )
        wide = widen(dtype)
        # Each row is written once, so it keeps the hidden states' type; factors are summed.
        self.found = [
            torch.empty_like(hidden_NH) if needed[0] else None,
            torch.zeros_like(weight_VH, dtype=wide) if needed[1] else None,
            torch.empty_like(low_NR) if needed[2] and low_NR is not None else None,
            torch.zeros_like(adapter_VR, dtype=wide)
            if needed[3] and adapter_VR is not None
            else None,
        ]
        self.wanted = any(grad is not None for grad in self.found)

    def product(self, chunk: slice) -> Tensor:
        """h·Wᵀ + low·Bᵀ of a chunk: on a GPU in the type of h, else in float32 or wider."""
        hidden, low = self._rows
        weight, adapter = self._factors
        if not hidden.is_cuda:
            product = _multiply_finely(hidden[chunk], weight)
            if low is not None and adapter is not None:
                product += _multiply_finely(low[chunk], adapter)
            return product
        if low is None or adapter is None:
            return hidden[chunk] @ weight.T
        # The small product first: see `decoder.kernels`.
        return (low[chunk] @ adapter.T).addmm_(hidden[chunk], weight.T)

    def multiply(self, factor: float) -> None:
        """Scale all sums: cheaper here than on the logits, which are the largest by far."""
        if factor != 1.0:
            for grad in self.found:
                if grad is not None:
                    grad.mul_(factor)

    def add(self, chunk: slice, delta_CV: Tensor) -> None:
        """Take a chunk's gradient of the product."""
        for rows, factor, of_rows, of_factor in zip(
            self._rows, self._factors, self.found[::2], self.found[1::2], strict=True
        ):
            if rows is None or factor is None:
                continue
            if of_rows is not None:
                torch.mm(delta_CV, factor, out=of_rows[chunk])
            if of_factor is not None:
                add_product(of_factor, delta_CV.T, rows[chunk])


def _multiply_finely(left_CH: Tensor, right_VH: Tensor) -> Tensor:
    """left·rightᵀ; in half precision with twice its bits, float32.

    A processor's product has the type of its factors. A second one computes what rounding took from
    the first: with AMX half the time of a product in float32. A logit of 20 rounded to bfloat16 is
    0.06 off, which SmolLM2-135M's log-probabilities show: 0.046 off and not 0.034.
    """
    product = left_CH @ right_VH.T
    wide = widen(left_CH.dtype)
    if left_CH.dtype == wide:
        return product
    rest = torch.addmm(product, left_CH, right_VH.T, beta=-1)
    return product.to(wide).add_(rest)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left·right, whatever the types."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
        return
    # In parts: the product in the narrow type is as large as the total.
    values = _MAX_PRODUCT_ON_GPU if total.is_cuda else _MAX_PRODUCT
    size = max(1, values // total.shape[1])
    for part, rows in zip(torch.split(total, size), torch.split(left, size), strict=True):
        part.add_(rows @ right)
