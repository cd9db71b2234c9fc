"""Causal attention over a stream of segments.

On a GPU all segments go to one variable-length kernel, windows included. Elsewhere neighbours of
one length are computed together. Plain attention is torch's fused kernel and needs no mask. A soft
cap, and on a CPU a sliding window, needs the scores: they exist for a block of queries at a time
and are computed again in the backward pass, so memory grows with the segment's length, not with its
square.

Shapes: T tokens, Q query heads, K key heads, D head; S segments of one length L, G query heads per
key head, C queries of a block, J the keys that they may see.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from foundry.engines.training.decoder.gpu_attention import attend_on_gpu, has_gpu_kernel

# Scores that exist at one time: 64 MiB of float32.
_MAX_SCORES = 2**24
_MIN_QUERIES = 16


def attend(
    q_TQD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    segments: Sequence[int],
    *,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """Causal attention inside each segment: many short ones cost no more than one long one.

    Args:
        q_TQD, k_TKD, v_TKD: Q is a multiple of K.
        segments: lengths, which sum to T.
        window: each token sees itself and the `window - 1` before it; None: all before it.
        softcap: scores become softcap·tanh(score/softcap) (arXiv:2408.00118, § 2); None: stay.
        scale: of the scores; None: D^-½.
    Returns:
        Shape (T, Q, D).
    """
    scale = q_TQD.shape[-1] ** -0.5 if scale is None else scale
    if softcap is None and has_gpu_kernel(q_TQD):
        return attend_on_gpu(q_TQD, k_TKD, v_TKD, tuple(segments), window=window, scale=scale)
    runs = [(length, len(list(run))) for length, run in groupby(segments)]
    sizes = [length * count for length, count in runs]
    parts = []
    for (length, count), q, k, v in zip(
        runs,
        torch.split(q_TQD, sizes),
        torch.split(k_TKD, sizes),
        torch.split(v_TKD, sizes),
        strict=True,
    ):
        heads = (x.view(count, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        # A window that holds the whole segment hides nothing.
        hidden = window if window is not None and window < length else None
        mixed = _attend_equal(*heads, window=hidden, softcap=softcap, scale=scale)
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


def _attend_equal(
    q_SQLD: Tensor,
    k_SKLD: Tensor,
    v_SKLD: Tensor,
    *,
    window: int | None,
    softcap: float | None,
    scale: float,
) -> Tensor:
    if window is None and softcap is None:
        if q_SQLD.device.type == "cpu" and q_SQLD.dtype != _wide(q_SQLD.dtype):
            apply = cast(Callable[..., Tensor], _WideAttention.apply)
            return apply(q_SQLD, k_SKLD, v_SKLD, scale)
        if q_SQLD.device.type != "cpu":
            # There the kernels that keep no scores want a key head for each query head.
            k_SKLD, v_SKLD = (
                x.repeat_interleave(q_SQLD.shape[1] // x.shape[1], dim=1) for x in (k_SKLD, v_SKLD)
            )
        return functional.scaled_dot_product_attention(
            q_SQLD, k_SKLD, v_SKLD, is_causal=True, enable_gqa=True, scale=scale
        )
    apply = cast(Callable[..., Tensor], _BlockAttention.apply)
    return apply(q_SQLD, k_SKLD, v_SKLD, window, softcap, scale)


class _WideAttention(Function):
    """torch's kernel of processors in float32, of which only half precision is kept.

    Its backward pass takes 0.92 s in bfloat16 where float32 takes 0.38 (30 layers, 8 segments,
    1,026 tokens, one core), and rounds the probabilities besides.
    """

    @staticmethod
    def forward(ctx: Any, q_SQLD: Tensor, k_SKLD: Tensor, v_SKLD: Tensor, scale: float) -> Tensor:
        wide = (x.to(_wide(x.dtype)) for x in (q_SQLD, k_SKLD, v_SKLD))
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out_SQLD, normaliser_SQL = kernel(*wide, 0.0, True, scale=scale)
        narrow_SQLD = out_SQLD.to(q_SQLD.dtype)
        ctx.save_for_backward(q_SQLD, k_SKLD, v_SKLD, narrow_SQLD, normaliser_SQL)
        ctx.scale = scale
        return cast(Tensor, narrow_SQLD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *kept, normaliser_SQL = ctx.saved_tensors
        dtype = kept[0].dtype
        wide = (x.to(_wide(dtype)) for x in (grads[0], *kept))
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        found = kernel(*wide, normaliser_SQL, 0.0, True, scale=ctx.scale)
        return (*(grad.to(dtype) for grad in found), None)


class _BlockAttention(Function):
    """Attention whose probabilities exist for one block of queries at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        q_SQLD: Tensor,
        k_SKLD: Tensor,
        v_SKLD: Tensor,
        window: int | None,
        softcap: float | None,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(q_SQLD, k_SKLD, v_SKLD)
        ctx.window, ctx.softcap, ctx.scale = window, softcap, scale
        out_SQLD = torch.empty_like(q_SQLD, memory_format=torch.contiguous_format)
        q_SKGLD = _group(q_SQLD, k_SKLD)
        out_SKGLD = _group(out_SQLD, k_SKLD)
        for queries, keys in _blocks(q_SQLD, window):
            q, k, v = q_SKGLD[..., queries, :], k_SKLD[..., keys, :], v_SKLD[..., keys, :]
            probabilities, _ = _probabilities(q, k, _visible(q, queries, keys, window), ctx)
            out_SKGLD[..., queries, :] = _times(probabilities, v.to(probabilities.dtype))
        return out_SQLD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_SQLD, k_SKLD, v_SKLD = ctx.saved_tensors
        grad_q, grad_k, grad_v = (
            torch.zeros(x.shape, dtype=_wide(x.dtype), device=x.device)
            for x in (q_SQLD, k_SKLD, v_SKLD)
        )
        q_SKGLD, grad_SKGLD, grad_q_SKGLD = (_group(x, k_SKLD) for x in (q_SQLD, grads[0], grad_q))
        for queries, keys in _blocks(q_SQLD, ctx.window):
            q, k, v = q_SKGLD[..., queries, :], k_SKLD[..., keys, :], v_SKLD[..., keys, :]
            probabilities, slope = _probabilities(q, k, _visible(q, queries, keys, ctx.window), ctx)
            grad = grad_SKGLD[..., queries, :].to(probabilities.dtype)
            grad_v[..., keys, :] += _over_queries(probabilities, grad)
            delta = _times(grad, v.to(grad.dtype).mT)
            # d softmax: p·(g - sum of p·g)
            delta = probabilities * (delta - (delta * probabilities).sum(-1, keepdim=True))
            delta = delta.mul_(ctx.scale) if slope is None else delta.mul_(slope).mul_(ctx.scale)
            grad_q_SKGLD[..., queries, :] = _times(delta, k.to(delta.dtype))
            grad_k[..., keys, :] += _over_queries(delta, q.to(delta.dtype))
        return (
            grad_q.to(q_SQLD.dtype),
            grad_k.to(k_SKLD.dtype),
            grad_v.to(v_SKLD.dtype),
            None,
            None,
            None,
        )


def _group(x_SQLD: Tensor, k_SKLD: Tensor) -> Tensor:
    """Query heads by the key head that they share, shape (S, K, G, L, D); a view."""
    count, heads = k_SKLD.shape[:2]
    return x_SQLD.view(count, heads, -1, *x_SQLD.shape[2:])


def _blocks(q_SQLD: Tensor, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Queries, and the keys that any of them sees."""
    rows, length = q_SQLD.shape[0] * q_SQLD.shape[1], q_SQLD.shape[2]
    size = max(_MIN_QUERIES, _MAX_SCORES // (rows * (min(window or length, length))))
    if window is not None:
        # Beyond the window's size, a longer block computes mostly what is hidden.
        size = min(size, max(_MIN_QUERIES, window))
    for start in range(0, length, size):
        end = min(start + size, length)
        first = 0 if window is None else max(0, start - window + 1)
        yield slice(start, end), slice(first, end)


def _visible(q: Tensor, queries: slice, keys: slice, window: int | None) -> Tensor:
    """Which key each query of a block sees, shape (C, J)."""
    back_CJ = torch.arange(queries.start, queries.stop, device=q.device).unsqueeze(-1) - (
        torch.arange(keys.start, keys.stop, device=q.device)
    )
    return back_CJ >= 0 if window is None else (back_CJ >= 0) & (back_CJ < window)


def _probabilities(
    q_SKGCD: Tensor, k_SKJD: Tensor, visible_CJ: Tensor, options: Any
) -> tuple[Tensor, Tensor | None]:
    """Shape (S, K, G, C, J), and the soft cap's slope of the same shape."""
    wide = _wide(q_SKGCD.dtype)
    scores = _times(q_SKGCD.to(wide), k_SKJD.to(wide).mT).mul_(options.scale)
    slope = None
    if options.softcap is not None:
        bent = scores.div_(options.softcap).tanh_()
        slope = 1 - bent.square()
        scores = bent.mul_(options.softcap)
    scores.masked_fill_(~visible_CJ, float("-inf"))
    return scores.softmax(-1), slope


def _times(left_SKGCX: Tensor, right_SKXY: Tensor) -> Tensor:
    """One matrix product per key head, for all of its query heads."""
    flat = left_SKGCX.flatten(2, 3) @ right_SKXY
    return flat.view(*left_SKGCX.shape[:-1], right_SKXY.shape[-1])


def _over_queries(left_SKGCJ: Tensor, right_SKGCD: Tensor) -> Tensor:
    """Sum over the queries and query heads of a key head, shape (S, K, J, D)."""
    return left_SKGCJ.flatten(2, 3).mT @ right_SKGCD.flatten(2, 3)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
