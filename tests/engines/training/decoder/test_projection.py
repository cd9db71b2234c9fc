"""A projection with its adapter: gradients, dropout, and what bfloat16 keeps of small updates."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foundry.engines.training.decoder.dropout import Draws
from foundry.engines.training.decoder.kernels import Adapted, gated_projection, lora_projections
from foundry.engines.training.decoder.projection import Projection, project_together

ROWS, INPUTS, OUTPUTS, RANK = 256, 64, 96, 8


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_the_gradients_of_joined_projections_pass_a_numerical_check() -> None:
    """Of unlike widths, ranks and scales, with a bias and without, with dropout and without."""
    torch.manual_seed(0)
    x = _double(5, 4)
    first = _double(6, 4), _double(6), _double(2, 4), _double(6, 2)
    second = _double(3, 4), _double(1, 4), _double(3, 1)

    def joined(mask: Tensor | None) -> Callable[..., tuple[Tensor, ...]]:
        def run(x: Tensor, *f: Tensor) -> tuple[Tensor, ...]:
            parts = [Adapted(f[0], f[1], f[2], f[3], 0.7), Adapted(f[4], None, f[5], f[6], 2.0)]
            return lora_projections(x, parts, mask)

        return run

    mask = torch.empty(5, 4, dtype=torch.float64).bernoulli_(0.5).mul_(2)
    for each in (None, mask):
        assert torch.autograd.gradcheck(joined(each), (x, *first, *second))


def _projections(dropout: float = 0.0) -> list[Projection]:
    """Two with adapters that do something."""
    generator = torch.Generator().manual_seed(1)
    draws, found = Draws(0), []
    for place, (outputs, rank) in enumerate(((12, 4), (8, 2))):
        projection = Projection(16, outputs)
        torch.nn.init.normal_(projection.weight, generator=generator)
        projection.attach(rank, 8, dropout, generator, draws, place)
        assert projection.lora_B is not None
        torch.nn.init.normal_(projection.lora_B, generator=generator)
        found.append(projection)
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_projections_together_are_what_each_is_alone(dropout: float) -> None:
    projections = _projections(dropout)
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(2), requires_grad=True)
    together = project_together(x, projections)
    for projection, out in zip(projections, together, strict=True):
        torch.testing.assert_close(out, projection(x), rtol=1e-6, atol=1e-6)
    gradients = []
    for outs in (together, [projection(x) for projection in projections]):
        inputs = [x, *(p for projection in projections for p in projection.parameters())]
        loss = sum((out.square().sum() for out in outs), torch.zeros(()))
        gradients.append(torch.autograd.grad(loss, inputs))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_dropout_spares_the_base_and_keeps_the_adapter_s_mean() -> None:
    projection = _projections(0.5)[0]
    adapter = projection.attached
    assert adapter is not None
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(2))
    update = adapter.scale * (x @ adapter.a_RI.T @ adapter.b_OR.T)
    base = x @ projection.weight.T
    total = torch.zeros_like(base)
    with torch.no_grad():
        for _ in range(2000):
            adapter.draws.begin_pass()
            total += projection(x) - base
    spread = (total / 2000 - update).square().mean().sqrt()
    assert spread <= 0.1 * update.square().mean().sqrt()


def _ulp(values: Tensor) -> Tensor:
    """One unit of bfloat16's last place: 8 bits of significand."""
    return torch.exp2(values.abs().clamp_min(1e-30).log2().floor() - 7)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _kept(result: Tensor, base: Tensor, ulp: Tensor) -> float:
    """The mean of what was added, in units of the base's last place."""
    return ((result.double() - base) / ulp).mean().item()


def test_bfloat16_keeps_an_update_of_a_quarter_unit() -> None:
    """Rounded apart, every base output would swallow it: the mean would be zero."""
    x, weight = _random(ROWS, INPUTS, seed=0), _random(OUTPUTS, INPUTS, seed=1)
    base = x.double() @ weight.double().T
    # An adapter whose update is a quarter unit, to bfloat16, of every output of one row: x·Aᵀ is
    # one of RANK rows, picked by a one-hot input.
    picks = torch.eye(ROWS, dtype=torch.bfloat16)
    quarter = (_ulp(base) / 4).bfloat16()
    wide_x = torch.cat([x, picks], dim=1)
    wide_weight = torch.cat([weight, torch.zeros(OUTPUTS, ROWS, dtype=torch.bfloat16)], dim=1)
    a = torch.cat([torch.zeros(ROWS, INPUTS, dtype=torch.bfloat16), picks], dim=1)
    (out,) = lora_projections(wide_x, [Adapted(wide_weight, None, a, quarter.T, 1.0)])
    assert _kept(out, base, _ulp(base)) == pytest.approx(0.25, abs=0.01)
    apart = (wide_x @ wide_weight.T).addmm(wide_x @ a.T, quarter)
    assert abs(_kept(apart, base, _ulp(base))) <= 0.01


@pytest.mark.parametrize("gated", [False, True])
def test_bfloat16_keeps_a_small_gradient_of_the_adapter(gated: bool) -> None:
    """The same for what flows back into x; with a gate, into what the gate let through."""
    grad, weight = _random(ROWS, OUTPUTS, seed=2), _random(OUTPUTS, INPUTS, seed=3)
    base = grad.double() @ weight.double()
    quarter = (_ulp(base) / 4).bfloat16()
    picks = torch.eye(ROWS, dtype=torch.bfloat16)
    wide_grad = torch.cat([grad, picks], dim=1)
    wide_weight = torch.cat([weight, torch.zeros(ROWS, INPUTS, dtype=torch.bfloat16)])
    b = torch.cat([torch.zeros(OUTPUTS, ROWS, dtype=torch.bfloat16), picks])
    x = torch.ones(ROWS, INPUTS, dtype=torch.bfloat16, requires_grad=True)
    if gated:
        # The exact Gelu of a large gate is the gate itself: h = 16·x, and dh/dx = 16.
        gate = torch.full((ROWS, INPUTS), 16.0, dtype=torch.bfloat16)
        out = gated_projection(gate, x, wide_weight, quarter, b, 1.0, None, "gelu")
        factor = 16.0
    else:
        (out,) = lora_projections(x, [Adapted(wide_weight, None, quarter, b, 1.0)])
        factor = 1.0
    (found,) = torch.autograd.grad(out, x, wide_grad)
    assert _kept(found / factor, base, _ulp(base)) == pytest.approx(0.25, abs=0.01)
