import torch
from torch import nn

from foundry.engines.training.decoder.casting import CastOnce


def test_a_weight_of_the_right_type_is_used_as_it_is() -> None:
    weight = nn.Parameter(torch.randn(3, 3))
    assert CastOnce()(weight, torch.float32) is weight


def test_it_is_cast_again_when_it_has_changed() -> None:
    weight, cast = nn.Parameter(torch.randn(3, 3)), CastOnce()
    first = cast(weight, torch.bfloat16)
    assert first.dtype == torch.bfloat16
    assert cast(weight, torch.bfloat16).data_ptr() == first.data_ptr()
    with torch.no_grad():
        weight.add_(1)
        again = cast(weight, torch.bfloat16)
        assert torch.equal(again, weight.bfloat16())
        assert cast(weight, torch.float16).dtype == torch.float16


def test_another_weight_is_not_mistaken_for_the_first() -> None:
    cast = CastOnce()
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    cast(one, torch.bfloat16)
    assert cast(other, torch.bfloat16).tolist() == [1.0, 1.0]


def test_gradients_reach_the_weight_in_its_own_type() -> None:
    weight, cast = nn.Parameter(torch.randn(4)), CastOnce()
    x = torch.randn(4).bfloat16()
    for _ in range(2):
        torch.autograd.backward((cast(weight, torch.bfloat16) * x).sum())
    assert weight.grad is not None and weight.grad.dtype == torch.float32
    torch.testing.assert_close(weight.grad, 2 * x.float())


def test_the_fused_optimiser_s_update_is_seen() -> None:
    from foundry.engines.training.optimisers.adamw import AdamW
    from foundry.engines.training.optimisers.params import AdamParams

    weight, cast = nn.Parameter(torch.ones(4)), CastOnce()
    cast(weight, torch.bfloat16)
    weight.grad = torch.ones(4)
    AdamW({"weight": weight}).step(AdamParams(lr=0.5))
    assert torch.equal(cast(weight, torch.bfloat16), weight.detach().bfloat16())
