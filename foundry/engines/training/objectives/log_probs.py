"""Log-probabilities of given tokens, with a gradient, in bounded memory.

Neither pass holds the logits of more than a chunk of positions and a block of the vocabulary; the
backward pass computes them again, and only for positions whose gradient is not zero. Objectives
that are linear in the log-probabilities with known weights need no second computation: see
`cross_entropy`.

Shapes: N positions, K targets of a position, H hidden, V vocabulary, C positions of a chunk,
W tokens of a block of the vocabulary, R rank.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from foundry.engines.training.objectives.cross_entropy import add_product
from foundry.engines.training.objectives.head import (
    Bending,
    Head,
    Logits,
    as_columns,
    chunk_vocabulary,
    widen,
)

_ROWS = 2048


def token_log_probs(
    hidden_NH: Tensor,
    head: Head,
    targets_NK: Tensor,
    rows: int = _ROWS,
    block: int | None = None,
) -> Tensor:
    """log softmax(logits)[target] of every position.

    Args:
        hidden_NH: hidden states of the positions that predict; float32, bfloat16 or float16.
        targets_NK: token ids; shape (N,) for one each.
        rows, block: positions and tokens of the vocabulary whose logits exist at one time.
    Returns:
        Nats, in the targets' shape, float32 (float64 for float64 input); differentiable in the
        hidden states, the head's weight and its adapter.
    """
    block = block or chunk_vocabulary(head.weight_VH.shape[0], min(rows, len(hidden_NH)))
    apply = cast(Callable[..., Tensor], _TokenLogProbs.apply)
    found = apply(
        hidden_NH,
        head.weight_VH,
        head.low_NR,
        head.adapter_VR,
        as_columns(targets_NK),
        (rows, block, head.bending),
    )
    return found.view(targets_NK.shape)


class _TokenLogProbs(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        low_NR: Tensor | None,
        adapter_VR: Tensor | None,
        targets_NK: Tensor,
        options: tuple[int, int, Bending],
    ) -> Tensor:
        rows = options[0]
        wide = widen(hidden_NH.dtype)
        picked_NK = torch.zeros(targets_NK.shape, dtype=wide, device=hidden_NH.device)
        normaliser_N = torch.full(
            (len(hidden_NH),), -torch.inf, dtype=wide, device=picked_NK.device
        )
        for start in range(0, len(hidden_NH), rows):
            chunk = slice(start, start + rows)
            low = None if low_NR is None else low_NR[chunk]
            for first, logits in _blocks(hidden_NH[chunk], weight_VH, low, adapter_VR, options):
                values = logits.values_CW
                normaliser_N[chunk] = torch.logaddexp(normaliser_N[chunk], values.logsumexp(-1))
                index, inside = _inside(targets_NK[chunk], first, values.shape[-1])
                picked_NK[chunk] += values.gather(-1, index).where(inside, 0.0)
        ctx.save_for_backward(hidden_NH, weight_VH, low_NR, adapter_VR, targets_NK, normaliser_N)
        ctx.options = options
        return picked_NK.sub_(normaliser_N.unsqueeze(-1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *parts, targets_NK, normaliser_N = ctx.saved_tensors
        wide = normaliser_N.dtype
        found = [
            torch.zeros_like(part, dtype=wide) if needed and part is not None else None
            for part, needed in zip(parts, ctx.needs_input_grad, strict=False)
        ]
        grad_NK = grads[0].to(wide)
        live_N = grad_NK.abs().sum(-1).nonzero().squeeze(-1)
        for chunk in torch.split(live_N, ctx.options[0]):
            _add_chunk(
                found, parts, chunk, targets_NK[chunk], normaliser_N[chunk], grad_NK[chunk], ctx
            )
        narrowed = [
            None if grad is None else grad.to(part.dtype)
            for grad, part in zip(found, parts, strict=True)
        ]
        return (*narrowed, None, None)


def _add_chunk(
    found: list[Tensor | None],
    parts: list[Tensor | None],
    chunk_C: Tensor,
    targets_CK: Tensor,
    normaliser_C: Tensor,
    grad_CK: Tensor,
    ctx: Any,
) -> None:
    """Add the gradients of one chunk of positions to those of hidden, weight, low and adapter."""
    hidden, weight, low, adapter = parts
    of_hidden, of_weight, of_low, of_adapter = found
    assert hidden is not None and weight is not None
    bending: Bending = ctx.options[2]
    hidden_CH = hidden[chunk_C]
    low_CR = None if low is None else low[chunk_C]
    for first, logits in _blocks(hidden_CH, weight, low_CR, adapter, ctx.options):
        values = logits.values_CW
        tokens = slice(first, first + values.shape[-1])
        delta = values.sub_(normaliser_C.unsqueeze(-1)).exp_()
        delta.mul_(grad_CK.sum(-1, keepdim=True)).neg_()
        index, inside = _inside(targets_CK, first, values.shape[-1])
        delta.scatter_add_(-1, index, grad_CK.where(inside, 0.0))
        narrow = bending.revert(delta, logits.slope_CW).to(hidden.dtype)
        for of_rows, of_factor, rows, factor in (
            (of_hidden, of_weight, hidden_CH, weight),
            (of_low, of_adapter, low_CR, adapter),
        ):
            if of_rows is not None and factor is not None:
                of_rows.index_add_(
                    0, chunk_C, (narrow @ factor[tokens].to(narrow.dtype)).to(of_rows.dtype)
                )
            if of_factor is not None and rows is not None:
                add_product(of_factor[tokens], narrow.T, rows)


def _blocks(
    hidden_CH: Tensor,
    weight_VH: Tensor,
    low_CR: Tensor | None,
    adapter_VR: Tensor | None,
    options: tuple[int, int, Bending],
) -> Iterator[tuple[int, Logits]]:
    """First token and logits of each block of the vocabulary."""
    _, block, bending = options
    for first in range(0, weight_VH.shape[0], block):
        tokens = slice(first, first + block)
        product = _wide_product(hidden_CH, weight_VH[tokens])
        if low_CR is not None and adapter_VR is not None:
            product += _wide_product(low_CR, adapter_VR[tokens])
        yield first, bending.apply(product)


def _wide_product(left_CH: Tensor, right_WH: Tensor) -> Tensor:
    """left·rightᵀ, not rounded to half precision: a ratio of probabilities would show it."""
    wide = widen(left_CH.dtype)
    right_WH = right_WH.to(left_CH.dtype)
    # AMD's build answers as CUDA's, and has no product of two types.
    if left_CH.dtype != wide and left_CH.is_cuda and torch.version.hip is None:
        return torch.mm(left_CH, right_WH.T, out_dtype=wide)
    return left_CH.to(wide) @ right_WH.to(wide).T


def _inside(targets_CK: Tensor, first: int, size: int) -> tuple[Tensor, Tensor]:
    """Places of the targets inside a block, and which of them lie there at all."""
    index = targets_CK - first
    inside = (index >= 0) & (index < size)
    return index.clamp(0, size - 1), inside
