"""Attention over many segments in one call, by the fused kernels inside torch.

Both work in bfloat16 and float16 on a GPU, keep no scores (arXiv:2307.08691) and compute a segment
alike whatever lies beside it. Flash attention takes the segments' offsets instead of a mask.
cuDNN's wants segments of one length, and was 1.5 times as fast on an H200: four of 4,096 tokens, 32
heads of 64 on 8 key heads, forward and backward in 2.6 ms against 4.0.

Shapes: T tokens, Q query heads, K key heads, D head; S segments of one length L.
"""

import inspect
from functools import cache, lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

_DTYPES = (torch.bfloat16, torch.float16)
_LARGEST_HEAD = 256
_HEAD_MULTIPLE = 8
# The first generation with the instructions that flash attention is written in.
_AMPERE = (8, 0)
# cuDNN's kernels are the faster ones from Hopper on.
_HOPPER = (9, 0)
# cuDNN prepares a plan for each shape. Rows cut or packed to a length have one that divides so;
# rows as they come have any, and each would cost a plan.
_PLANNED_LENGTHS = 128
_BY_SPEED = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]


def has_gpu_kernel(q_TQD: Tensor) -> bool:
    """Whether the kernels take these queries: their device, number format and head size."""
    size = q_TQD.shape[-1]
    fits = size <= _LARGEST_HEAD and size % _HEAD_MULTIPLE == 0
    return q_TQD.is_cuda and q_TQD.dtype in _DTYPES and fits and _reaches(q_TQD.device, _AMPERE)


def attend_on_gpu(
    q_TQD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    segments: tuple[int, ...],
    *,
    window: int | None,
    scale: float,
) -> Tensor:
    """Causal attention inside each segment, shape (T, Q, D); arguments as those of `attend`."""
    length = segments[0]
    equal = window is None and length % _PLANNED_LENGTHS == 0 and set(segments) == {length}
    if equal and torch.version.hip is None and _reaches(q_TQD.device, _HOPPER):
        return _attend_equal(q_TQD, k_TKD, v_TKD, len(segments), scale)
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


def _attend_equal(q_TQD: Tensor, k_TKD: Tensor, v_TKD: Tensor, count: int, scale: float) -> Tensor:
    q_SQLD, k_SKLD, v_SKLD = (
        x.view(count, -1, *x.shape[1:]).transpose(1, 2) for x in (q_TQD, k_TKD, v_TKD)
    )
    with sdpa_kernel(_BY_SPEED, set_priority=True):
        out_SQLD = functional.scaled_dot_product_attention(
            q_SQLD, k_SKLD, v_SKLD, is_causal=True, enable_gqa=True, scale=scale
        )
    return out_SQLD.transpose(1, 2).flatten(0, 1)


# Every layer of a pass asks for the same segments; a few passes may be in flight at one time.
@lru_cache(maxsize=16)
def find_offsets(segments: tuple[int, ...], device: torch.device) -> tuple[Tensor, int]:
    """Where each segment starts and the last one ends, int32 on the device; the longest length."""
    lengths = torch.tensor((0, *segments), dtype=torch.int32)
    return lengths.cumsum(0, dtype=torch.int32).to(device), max(segments)


@cache
def _reaches(device: torch.device, generation: tuple[int, int]) -> bool:
    # AMD's builds bring flash attention for every card that they support.
    return torch.version.hip is not None or (torch.cuda.get_device_capability(device) >= generation)


@cache
def _grouped_query_option() -> dict[str, Any]:
    """torch 2.11 takes fewer key heads as they come, later ones want to be told."""
    told = "enable_gqa" in inspect.signature(varlen_attn).parameters
    return {"enable_gqa": True} if told else {}
