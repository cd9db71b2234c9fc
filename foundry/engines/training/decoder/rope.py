"""The angles of rotary position embeddings, for every kind that `config.Rope` describes.

Each segment is stretched by its own length, so a packed batch equals an unpacked one.

Shapes: T tokens, P pairs of rotated dimensions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from foundry.engines.training.decoder.config import Rope


def rotary_angles(
    rope: Rope,
    positions_T: Tensor,
    segments: Sequence[int],
    lengths: Sequence[int],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """cos and sin, shape (T, 1, P).

    Args:
        positions_T: position of each token inside its sequence.
        segments: tokens of each sequence in the stream.
        lengths: of each whole sequence, those before the stream included.
    """
    device = positions_T.device
    steady = rope.steady_length
    if steady is None or all(length <= steady for length in lengths):
        frequencies = _frequencies(rope, 0, device)
    else:
        rows = torch.stack([_frequencies(rope, length, device) for length in lengths])
        counts = torch.tensor(segments, device=device)
        frequencies = rows.repeat_interleave(counts, dim=0)
    angles = (positions_T.float().unsqueeze(-1) * frequencies).unsqueeze(-2)
    return (angles.cos() * rope.amplitude).to(dtype), (angles.sin() * rope.amplitude).to(dtype)


def _frequencies(rope: Rope, length: int, device: torch.device) -> Tensor:
    """Radians per token, shape (P,), float32, for a sequence of `length` tokens."""
    exponent_P = torch.arange(0, rope.size, 2, device=device).float() / rope.size
    if rope.kind == "longrope":
        stretch = rope.long_factor if length > rope.original_length else rope.short_factor
        return 1.0 / (torch.tensor(stretch, device=device) * rope.theta**exponent_P)
    if rope.kind == "dynamic":
        return 1.0 / _dynamic_theta(rope, length) ** exponent_P
    plain_P = 1.0 / rope.theta**exponent_P
    if rope.kind == "linear":
        return plain_P / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, plain_P)
    if rope.kind == "yarn":
        return _yarn(rope, rope.theta**exponent_P)
    return plain_P


def _dynamic_theta(rope: Rope, length: int) -> float:
    """NTK-aware scaling that grows with the sequence."""
    reached = max(length, rope.original_length) / rope.original_length
    return float(
        rope.theta * (rope.factor * reached - (rope.factor - 1)) ** (rope.size / (rope.size - 2))
    )


def _llama3(rope: Rope, plain_P: Tensor) -> Tensor:
    """Fast dimensions stay, slow ones are divided by the factor, with a ramp between them."""
    turns_P = rope.original_length / (2 * math.pi / plain_P)
    smooth_P = (turns_P - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between_P = (1 - smooth_P) * plain_P / rope.factor + smooth_P * plain_P
    slow_P = torch.where(turns_P < rope.low_freq_factor, plain_P / rope.factor, between_P)
    return torch.where(turns_P > rope.high_freq_factor, plain_P, slow_P)


def _yarn(rope: Rope, wavelength_P: Tensor) -> Tensor:
    low, high = rope.ramp
    # Bounds that coincide are a step.
    high += 0.001 * (low == high)
    dimension_P = torch.arange(rope.size // 2, device=wavelength_P.device).float()
    stretched_P = ((dimension_P - low) / (high - low)).clamp(0, 1)
    kept_P = 1 - stretched_P
    return 1.0 / (rope.factor * wavelength_P) * (1 - kept_P) + 1.0 / wavelength_P * kept_P
