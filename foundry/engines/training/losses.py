"""Training objectives.

Shapes: N trained positions, H hidden, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

_MAX_ROWS = 2048
_MAX_LOGITS = 2**24  # 64 MiB of float32


def chunk_rows(vocab_size: int) -> int:
    """Positions whose logits exist at one time."""
    return max(64, min(_MAX_ROWS, _MAX_LOGITS // vocab_size))


def cross_entropy_sum(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    targets_N: Tensor,
    rows: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Sum over positions of -log softmax(hidden·weightᵀ)[target].

    Divide by the number of trained tokens of the whole optimiser batch, not of the micro-batch:
    else a short reply weighs more in a small micro-batch than in a large one.

    Args:
        hidden_NH: hidden states of the trained positions only.
        weight_VH: the output projection.
        targets_N: the token each position predicts.
        rows: positions per chunk.
        softcap: logits become softcap·tanh(logit/softcap): the decoder's `logit_softcap`.
    Returns:
        Nats, shape (), float32 (float64 for float64 input). Zero when N is zero.
    """
    rows = rows or chunk_rows(weight_VH.shape[0])
    apply = cast(Callable[..., Tensor], _ChunkedCrossEntropy.apply)
    return apply(hidden_NH, weight_VH, targets_N, rows, softcap)


class _ChunkedCrossEntropy(Function):
    """Takes the gradient of each chunk while its logits exist, so they are never held or redone."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        targets_N: Tensor,
        rows: int,
        softcap: float | None,
    ) -> Tensor:
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        weight = weight_VH.to(hidden_NH.dtype)
        wide = torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32
        total = torch.zeros((), dtype=wide, device=hidden_NH.device)
        grad_hidden = torch.empty_like(hidden_NH) if want_hidden else None
        grad_weight = torch.zeros_like(weight_VH, dtype=wide) if want_weight else None
        for start in range(0, hidden_NH.shape[0], rows):
            hidden = hidden_NH[start : start + rows]
            target = targets_N[start : start + rows].unsqueeze(-1)
            logits = (hidden @ weight.T).to(wide)
            bent = None if softcap is None else logits.div(softcap).tanh_()
            logits = logits if bent is None or softcap is None else bent * softcap
            normaliser = logits.logsumexp(-1, keepdim=True)
            total += (normaliser - logits.gather(-1, target)).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            # The gradient replaces the logits in place: softmax minus the one-hot target.
            delta = logits.sub_(normaliser).exp_()
            delta.scatter_add_(-1, target, -torch.ones_like(target, dtype=wide))
            if bent is not None:
                delta.mul_(1 - bent.square())
            narrow = delta.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(narrow, weight, out=grad_hidden[start : start + rows])
            if grad_weight is not None:
                grad_weight += (narrow.T @ hidden).to(wide)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VH.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        (grad,) = grads
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * grad).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None
