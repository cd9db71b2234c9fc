"""Attention over many segments in one call, by the flash-attention kernel inside torch.

The kernel takes the segments' offsets instead of a mask, works in bfloat16 and float16 on a GPU and
keeps no scores (arXiv:2307.08691). It computes a segment alike whatever lies beside it.

Shapes: T tokens, Q query heads, K key heads, D head.
"""

import inspect
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

_DTYPES = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 256
_HEAD_MULTIPLE = 8
# The first generation with the instructions that the kernel is written in: NVIDIA's Ampere.
_OLDEST = (8, 0)


def has_varlen_kernel(q_TQD: Tensor) -> bool:
    """Whether the kernel takes these queries: their device, number format and head size."""
    size = q_TQD.shape[-1]
    fits = size <= _LARGEST_HEAD and size % _HEAD_MULTIPLE == 0
    return q_TQD.is_cuda and q_TQD.dtype in _DTYPES and fits and _is_recent(q_TQD.device)


def attend_varlen(
    q_TQD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    segments: tuple[int, ...],
    *,
    window: int | None,
    scale: float,
) -> Tensor:
    """Causal attention inside each segment, shape (T, Q, D); arguments as those of `attend`."""
    offsets, longest = find_offsets(segments, q_TQD.device)
    return cast(
        Tensor,
        varlen_attn(
            q_TQD,
            k_TKD,
            v_TKD,
            offsets,
            offsets,
            longest,
            longest,
            scale=scale,
            # Tokens to the left, to the right; -1 is all of them.
            window_size=(-1 if window is None else window - 1, 0),
            **_grouped_query_option(),
        ),
    )


# Every layer of a pass asks for the same segments; a few passes may be in flight at one time.
@lru_cache(maxsize=16)
def find_offsets(segments: tuple[int, ...], device: torch.device) -> tuple[Tensor, int]:
    """Where each segment starts and the last one ends, int32 on the device; the longest length."""
    lengths = torch.tensor((0, *segments), dtype=torch.int32)
    return lengths.cumsum(0, dtype=torch.int32).to(device), max(segments)


@cache
def _is_recent(device: torch.device) -> bool:
    # AMD's builds bring the kernel for every card that they support.
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _OLDEST


@cache
def _grouped_query_option() -> dict[str, Any]:
    """torch 2.11 takes fewer key heads as they come, later ones want to be told."""
    told = "enable_gqa" in inspect.signature(varlen_attn).parameters
    return {"enable_gqa": True} if told else {}
