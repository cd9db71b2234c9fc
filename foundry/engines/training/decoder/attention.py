"""Causal attention over a stream of segments, without a mask.

Shapes: T tokens, Q query heads, K key heads, D head.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional


def attend(q_TQD: Tensor, k_TKD: Tensor, v_TKD: Tensor, segments: Sequence[int]) -> Tensor:
    """Causal attention inside each segment; no mask is ever materialised.

    Neighbours of one length are computed together: many short segments cost no more than one.
    """
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
        mixed = functional.scaled_dot_product_attention(
            q.view(count, length, *q.shape[1:]).transpose(1, 2),
            k.view(count, length, *k.shape[1:]).transpose(1, 2),
            v.view(count, length, *v.shape[1:]).transpose(1, 2),
            is_causal=True,
            enable_gqa=True,
        )
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)
