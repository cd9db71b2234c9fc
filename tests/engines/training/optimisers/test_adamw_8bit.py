import pytest
import torch
from torch import Tensor, nn

from foundry.engines.training.learner import Learner
from foundry.engines.training.optimisers.adamw import AdamW
from foundry.engines.training.optimisers.adamw_8bit import (
    BLOCK,
    AdamW8bit,
    Quantiser,
    dynamic_codes,
)
from foundry.engines.training.optimisers.params import AdamParams, Optimiser
from tests.engines.training.diloco.toy import Toy, batch

CPU = torch.device("cpu")
ADAM = AdamParams(lr=1e-2, beta2=0.99, eps=1e-8)


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_256_numbers_that_crowd_near_zero(signed: bool) -> None:
    codes = dynamic_codes(signed=signed)
    assert len(codes.tolist()) == len(set(codes.tolist())) == 256
    assert codes[-1] == 1 and 0 in codes
    assert codes[codes > 0].min() < 1e-6
    assert (codes.min() < 0) == signed


@pytest.mark.parametrize("signed", [True, False])
def test_values_survive_within_a_sixteenth_of_their_size(signed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3 * BLOCK + 17, generator=generator) * 1e-5
    values = values if signed else values.abs()
    quantiser = Quantiser(signed=signed, device=CPU)
    codes, scales = quantiser.encode(values)
    assert codes.dtype == torch.uint8 and codes.shape == values.shape and scales.shape == (4,)
    again = quantiser.decode(codes, scales)
    large = values.abs() > 0.1 * values.abs().max()
    assert ((again - values).abs() / values.abs())[large].max() < 1 / 16
    assert (again - values).abs().max() < 0.01 * values.abs().max()


def test_nothing_but_zero_becomes_a_second_moment_of_zero() -> None:
    values = torch.zeros(BLOCK)
    values[0], values[1] = 1.0, 1e-30
    quantiser = Quantiser(signed=False, device=CPU)
    again = quantiser.decode(*quantiser.encode(values))
    assert again[0] == 1 and again[1] > 0 and again[2:].abs().max() == 0


def test_a_block_of_zeros_stays_zero() -> None:
    for signed in (True, False):
        quantiser = Quantiser(signed=signed, device=CPU)
        assert quantiser.decode(*quantiser.encode(torch.zeros(300))).abs().max() == 0


def _pair(size: int) -> tuple[Optimiser, Optimiser, nn.Parameter, nn.Parameter]:
    start = torch.randn(size, generator=torch.Generator().manual_seed(1))
    one, other = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    return AdamW8bit({"w": one}), AdamW({"w": other}), one, other


def test_small_tensors_are_updated_as_by_adamw() -> None:
    ours, theirs, one, other = _pair(100)
    for step in range(5):
        gradient = torch.randn(100, generator=torch.Generator().manual_seed(step))
        one.grad, other.grad = gradient.clone(), gradient.clone()
        adam = AdamParams(lr=1e-2, weight_decay=0.1)
        ours.step(adam)
        theirs.step(adam)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_large_tensors_stay_close_and_take_a_quarter_of_the_memory() -> None:
    """More values than one chunk, and a last block that is short."""
    size = 2**20 + 5 * BLOCK + 3
    ours, theirs, one, other = _pair(size)
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        gradient = torch.randn(size, generator=generator)
        one.grad, other.grad = gradient, gradient.clone()
        ours.step(ADAM)
        theirs.step(ADAM)
    moved = (other - _pair(size)[3]).abs().mean()
    assert (one - other).abs().mean() < 0.02 * moved

    def bytes_of(optimiser: Optimiser) -> int:
        return sum(value.nbytes for value in optimiser.state().values())

    assert bytes_of(ours) / size == pytest.approx(2 + 2 * 4 / BLOCK, abs=1e-3)
    assert bytes_of(theirs) / size == pytest.approx(8, abs=1e-3)


def _train(optimiser: type[AdamW] | type[AdamW8bit], steps: int) -> list[float]:
    model = Toy(width=256, layers=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.2)
    learner = Learner(
        model,
        dict(model.named_parameters()),
        lr=3e-3,
        weight_decay=0.0,
        grad_clip=1.0,
        optimiser=optimiser,
    )
    return [learner.step([batch(step % 3)], 3e-3).loss for step in range(steps)]


def test_a_loss_curve_follows_float32_s_within_two_thousandths_of_a_nat() -> None:
    wide, narrow = _train(AdamW, 40), _train(AdamW8bit, 40)
    assert wide[-1] < 0.5 * wide[0]
    assert max(abs(a - b) for a, b in zip(wide, narrow, strict=True)) < 2e-3


def test_a_restarted_optimiser_goes_on_bit_for_bit() -> None:
    def optimiser() -> tuple[AdamW8bit, nn.Parameter]:
        parameter = nn.Parameter(torch.ones(5000))
        return AdamW8bit({"w": parameter}), parameter

    def advance(ours: AdamW8bit, parameter: Tensor, seed: int) -> None:
        parameter.grad = torch.randn(5000, generator=torch.Generator().manual_seed(seed))
        ours.step(ADAM)

    whole, weight = optimiser()
    advance(whole, weight, 0)
    resumed, copy = optimiser()
    saved = {name: value.clone() for name, value in whole.state().items()}
    with torch.no_grad():
        copy.copy_(weight)
    resumed.load(saved)
    advance(whole, weight, 1)
    advance(resumed, copy, 1)
    assert torch.equal(weight, copy)
    assert all(torch.equal(resumed.state()[k], v) for k, v in whole.state().items())
    assert any(not torch.equal(saved[k], v) for k, v in whole.state().items())
    resumed.load({})
    assert resumed.state() == {}
