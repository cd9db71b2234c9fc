"""Every architecture on the device: its numbers are the processor's, its segments apart."""

import copy

import pytest
import torch
from torch import Tensor

from foundry.engines.training.decoder.config import DecoderConfig
from foundry.engines.training.decoder.model import Decoder
from tests.engines.training.decoder.variants import FAMILIES, random_document
from tests.gpu.streams import Stream, loss_sum, run
from tests.gpu.test_numerics import CPU, skip_where_it_is_slow

pytestmark = pytest.mark.gpu

SEGMENTS = (5, 23, 5, 1, 18)


def build(label: str, compute: torch.dtype = torch.float32) -> Decoder:
    """A random model on the processor."""
    model = Decoder(DecoderConfig.of(random_document(label, 0)), compute)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.1 * noise)
    return model.train()


def draw(seed: int) -> Stream:
    """Tokens that every family's vocabulary has."""
    tokens_T = Stream.draw(SEGMENTS, seed).tokens_T % 200
    return Stream(tokens_T, SEGMENTS)


def differentiate(model: Decoder, where: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of the mean loss, on the processor."""
    model = copy.deepcopy(model).to(where)
    torch.autograd.backward(loss_sum(model, draw(0)) / len(draw(0).tokens_T))
    gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        return model.lm_head(run(model, draw(0))).cpu(), gradients


@pytest.mark.parametrize("label", FAMILIES)
def test_numbers_are_the_processor_s(device: torch.device, label: str) -> None:
    model = build(label)
    logits, gradients = differentiate(model, device)
    expected_logits, expected = differentiate(model, CPU)
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-4)
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        size = max(value.abs().max().item(), 1e-3)
        torch.testing.assert_close(gradients[name], value, rtol=0, atol=1e-3 * size)


@torch.no_grad()
@pytest.mark.parametrize("label", FAMILIES)
def test_segments_stay_apart_in_bfloat16(device: torch.device, label: str) -> None:
    """Bit for bit, but for routed experts, whose products have other sizes then."""
    skip_where_it_is_slow(device, torch.bfloat16)
    model = build(label, torch.bfloat16).to(device)
    before, after = draw(1), draw(1)
    start = sum(SEGMENTS[:3])
    after.tokens_T[:start] = draw(2).tokens_T[:start]
    one, other = run(model, before), run(model, after)
    assert torch.isfinite(one).all()
    if model.config.experts is None:
        assert torch.equal(one[start:], other[start:])
    else:
        # An expert's products have as many rows as tokens chose it: another kernel may take them.
        torch.testing.assert_close(one[start:].float(), other[start:].float(), rtol=0.02, atol=0.02)
    assert not torch.equal(one[:start], other[:start])
