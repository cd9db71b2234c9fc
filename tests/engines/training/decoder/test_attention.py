"""Windows, soft caps and scales against scores written out in full.

Shapes: T tokens, Q query heads, K key heads, D head, L length of a segment.
"""

import itertools

import pytest
import torch
from torch import Tensor

from foundry.engines.training.decoder import attention
from foundry.engines.training.decoder.attention import attend

SEGMENTS = (7, 7, 40, 1, 3)
VARIANTS = list(itertools.product((None, 1, 5, 40), (None, 1.5), (None, 0.21)))


def _inputs(heads: int = 4, key_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = sum(SEGMENTS)
    q, k, v = (
        torch.randn(tokens, n, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for n in (heads, key_heads, key_heads)
    )
    return q, k, v


def _written_out(
    q_TQD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    window: int | None,
    softcap: float | None,
    scale: float | None,
) -> Tensor:
    parts = []
    for q, k, v in zip(
        *(torch.split(x, list(SEGMENTS)) for x in (q_TQD, k_TKD, v_TKD)), strict=True
    ):
        groups, length = q.shape[1] // k.shape[1], len(q)
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        scores = torch.einsum("iqd,jqd->qij", q, keys) * (scale or q.shape[-1] ** -0.5)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        back = torch.arange(length)[:, None] - torch.arange(length)
        hidden = (back < 0) | (back >= (window or length))
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        parts.append(torch.einsum("qij,jqd->iqd", weights, values))
    return torch.cat(parts)


@pytest.mark.parametrize(("window", "softcap", "scale"), VARIANTS)
def test_values_and_gradients_equal_the_scores_written_out(
    window: int | None, softcap: float | None, scale: float | None
) -> None:
    inputs = _inputs()
    ours = attend(*inputs, SEGMENTS, window=window, softcap=softcap, scale=scale)
    theirs = _written_out(*inputs, window, softcap, scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    direction = torch.randn(ours.shape, dtype=ours.dtype)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(theirs, inputs, direction),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize(("window", "softcap"), [(5, None), (None, 1.5), (20, 1.5)])
def test_small_blocks_give_the_same_values(
    monkeypatch: pytest.MonkeyPatch, window: int | None, softcap: float | None
) -> None:
    inputs = _inputs(heads=6, key_heads=1)
    whole = attend(*inputs, SEGMENTS, window=window, softcap=softcap)
    monkeypatch.setattr(attention, "_MAX_SCORES", 1)
    monkeypatch.setattr(attention, "_MIN_QUERIES", 3)
    parts = attend(*inputs, SEGMENTS, window=window, softcap=softcap)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_a_segment_is_bit_for_bit_the_same_whatever_its_neighbours_hold() -> None:
    q, k, v = (x.detach().float() for x in _inputs())
    together = attend(q, k, v, SEGMENTS, window=5, softcap=1.5)
    for start, length in zip(itertools.accumulate(SEGMENTS, initial=0), SEGMENTS, strict=False):
        own = slice(start, start + length)
        alone = attend(q[own], k[own], v[own], (length,), window=5, softcap=1.5)
        torch.testing.assert_close(together[own], alone, rtol=1e-6, atol=1e-6)
        noise = torch.randn_like(q)
        noise[own] = 0
        changed = attend(q + noise, k + noise[:, :2], v, SEGMENTS, window=5, softcap=1.5)
        assert torch.equal(changed[own], together[own])


def test_scores_of_a_long_segment_never_exist_at_once() -> None:
    blocks = list(attention._blocks(torch.empty(1, 32, 32_768, 1), window=None))
    assert all(32 * (q.stop - q.start) * (k.stop - k.start) <= 2**24 for q, k in blocks)
    sliding = list(attention._blocks(torch.empty(1, 32, 32_768, 1), window=1024))
    assert all(k.stop - k.start < 2 * 1024 for _, k in sliding)


def test_half_precision_on_a_processor_is_computed_in_float32() -> None:
    """Output and gradients are float32's own, rounded."""
    shapes = ((30, 4, 8), (30, 2, 8), (30, 2, 8))
    generator = torch.Generator().manual_seed(3)
    narrow = [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]
    wide = [x.float() for x in narrow]
    found = []
    for inputs in (narrow, wide):
        for x in inputs:
            x.requires_grad_(True)
        q, k, v = inputs
        out = attend(q, k, v, (11, 11, 8))
        found.append((out, *torch.autograd.grad(out, inputs, torch.ones_like(out))))
    assert torch.equal(found[0][0], found[1][0].bfloat16())
    for one, other in zip(*found, strict=True):
        assert one.dtype == torch.bfloat16
        # Two units of the last place: the backward pass starts from the rounded output.
        torch.testing.assert_close(one.float(), other, rtol=2**-7, atol=2**-7)
