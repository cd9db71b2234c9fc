"""What a norm multiplies by."""

import torch

from foundry.engines.training.decoder.norm import RMSNorm


def test_an_offset_is_added_to_narrow_weights_without_rounding() -> None:
    norm = RMSNorm(2, eps=0.0, offset=1.0).bfloat16()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([15.8125, 0.0]))
    x = torch.ones(1, 2)
    assert norm(x).tolist() == [[16.8125, 1.0]]
    assert norm(x.bfloat16(), torch.float32).tolist() == [[16.8125, 1.0]]


def test_double_precision_stays() -> None:
    norm = RMSNorm(2, eps=0.0, offset=1.0).double()
    with torch.no_grad():
        norm.weight.fill_(1e-12)
    out = norm(torch.ones(1, 2, dtype=torch.float64))
    assert out.dtype == torch.float64
    assert out[0, 0].item() == 1 + 1e-12
