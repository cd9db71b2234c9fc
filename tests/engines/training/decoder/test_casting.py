import pytest
import torch
from torch import nn

from foundry.engines.training.decoder.casting import CastOnce, dither


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
        assert torch.equal(again, dither(weight.detach(), torch.bfloat16))
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
        # Nothing but the gradient is left of the pass.
        assert cast._narrow is None
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_type_has_stays_and_what_lies_between_is_right_on_average(
    dtype: torch.dtype,
) -> None:
    on_grid = torch.randn(700, 300, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    assert torch.equal(dither(on_grid, dtype).float(), on_grid)
    # A sixteenth of the way up to the next value.
    bits = {torch.bfloat16: 8, torch.float16: 11}[dtype]
    unit = torch.exp2(on_grid.abs().clamp_min(1e-4).log2().floor() - (bits - 1))
    raised = dither(on_grid + unit / 16, dtype).float()
    assert ((raised - on_grid) / unit).mean().item() == pytest.approx(1 / 16, abs=2e-3)
    assert torch.equal(raised, dither(on_grid + unit / 16, dtype).float())
    assert ((raised - on_grid) / unit).abs().max() <= 1


def test_special_values_survive() -> None:
    values = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-40, -3.0])
    assert torch.equal(dither(values, torch.bfloat16)[[0, 1, 2, 3, 5]], values[[0, 1, 2, 3, 5]])
    assert dither(torch.tensor([float("nan")]), torch.bfloat16).isnan().all()
    assert dither(torch.zeros(0, 3), torch.bfloat16).shape == (0, 3)


def test_only_trained_weights_are_dithered() -> None:
    weight = nn.Parameter(torch.linspace(1, 1.01, 1000), requires_grad=False)
    assert torch.equal(CastOnce()(weight, torch.bfloat16), weight.bfloat16())
    weight.requires_grad_(True)
    assert torch.equal(CastOnce()(weight, torch.bfloat16), dither(weight.detach(), torch.bfloat16))
    assert not torch.equal(dither(weight.detach(), torch.bfloat16), weight.bfloat16())
