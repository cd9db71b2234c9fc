"""One optimiser step, whatever it was cut into, and what survives a restart."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from foundry.engines.training.learner import Learner
from foundry.engines.training.objectives.cross_entropy import cross_entropy_sum
from foundry.engines.training.packing import join
from foundry.errors import TrainingDiverged
from tests.engines.training.diloco.toy import Toy, batch, learner, weights

RATE = 1e-2


def test_micro_batches_are_one_batch() -> None:
    """Of unlike sizes: the loss is a mean over tokens, not over micro-batches."""
    whole, cut = learner(), learner()
    for step in range(3):
        parts = [batch(10 * step + n, tokens) for n, tokens in enumerate((5, 40, 12))]
        one, other = whole.step([join(parts)], RATE), cut.step(parts, RATE)
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
        assert (other.tokens, other.trained_tokens) == (one.tokens, one.trained_tokens) == (57, 54)
    for name, value in weights(whole).items():
        torch.testing.assert_close(cut.parameters[name].detach(), value, rtol=0, atol=1e-6)


def test_a_step_is_adamw_s() -> None:
    """torch's gradient of the written-out loss, then AdamW's first update by hand."""
    ours, model = learner(weight_decay=0.1), Toy()
    part = batch(0)
    hidden = model(part.tokens_T, part.positions_T, part.segments)[part.sources_N]
    logits = hidden @ model.lm_head.weight.T
    loss = nn.functional.cross_entropy(logits, part.targets_N)
    torch.autograd.backward(loss)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = _size(gradients.values())
    outcome = ours.step([part], RATE)
    assert outcome.loss == pytest.approx(loss.item(), rel=1e-6)
    assert outcome.grad_norm == pytest.approx(norm, rel=1e-5)
    for name, parameter in model.named_parameters():
        g = gradients[name] * min(1.0, 1.0 / (norm + 1e-6))
        # m̂ = g and v̂ = g² at the first step.
        update = g / (g.abs() + 1e-8) + 0.1 * parameter.detach()
        expected = parameter.detach() - RATE * update
        torch.testing.assert_close(ours.parameters[name].detach(), expected, rtol=0, atol=2e-6)


def _size(tensors: Iterable[Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


def test_the_rate_is_the_caller_s() -> None:
    still, moved = learner(weight_decay=0), learner(weight_decay=0)
    before = weights(still)
    still.step([batch(0)], 0.0)
    moved.step([batch(0)], 0.5)
    assert all(torch.equal(p, before[name]) for name, p in still.parameters.items())
    largest = max((p - before[name]).abs().max().item() for name, p in moved.parameters.items())
    assert largest == pytest.approx(0.5, rel=1e-3)


def test_no_clipping_when_it_is_off() -> None:
    """AdamW's moments tell the gradient's size."""
    clipped, free = learner(grad_clip=1e-3), learner(grad_clip=0)
    for one in (clipped, free):
        one.step([batch(0)], RATE)

    def first_moment(one: Learner) -> float:
        state = one.optimiser_state()
        return _size(v for name, v in state.items() if name.startswith("exp_avg."))

    assert first_moment(clipped) == pytest.approx(0.1 * 1e-3, rel=1e-3)
    assert first_moment(free) == pytest.approx(
        0.1 * learner().step([batch(0)], RATE).grad_norm, rel=1e-5
    )


def test_a_restarted_optimiser_goes_on_bit_for_bit() -> None:
    whole = learner()
    for number in range(3):
        whole.step([batch(number)], RATE)
    saved = {name: value.clone() for name, value in whole.optimiser_state().items()}
    parameters = weights(whole)
    assert set(saved) == {
        f"{kind}.{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name in parameters
    }
    resumed = learner(seed=99)
    resumed.step([batch(50)], RATE)
    with torch.no_grad():
        for name, value in parameters.items():
            resumed.parameters[name].copy_(value)
    resumed.load_optimiser_state(saved)
    untouched = {name: value.clone() for name, value in saved.items()}
    for number in range(3, 6):
        outcomes = [one.step([batch(number)], RATE) for one in (whole, resumed)]
        assert outcomes[0] == outcomes[1]
    for name, value in weights(whole).items():
        assert torch.equal(resumed.parameters[name], value)
    for name, value in whole.optimiser_state().items():
        assert torch.equal(resumed.optimiser_state()[name], value)
    # The moments that were loaded are the caller's own.
    assert all(torch.equal(saved[name], value) for name, value in untouched.items())


def test_without_moments_a_parameter_starts_anew() -> None:
    used, fresh = learner(), learner()
    used.step([batch(0)], 0.0)
    used.load_optimiser_state({})
    assert used.optimiser_state() == {}
    for one in (used, fresh):
        one.step([batch(1)], RATE)
    for name, value in weights(fresh).items():
        assert torch.equal(used.parameters[name], value)


def test_an_evaluation_is_a_mean_over_tokens_and_changes_nothing() -> None:
    one = learner()
    before = weights(one)
    parts = [batch(0, 5), batch(1, 40)]
    sums = []
    for part in parts:
        hidden = Toy()(part.tokens_T, part.positions_T, part.segments)[part.sources_N]
        sums.append(cross_entropy_sum(hidden, Toy().lm_head.weight, part.targets_N).item())
    assert one.evaluate(parts) == pytest.approx(sum(sums) / (4 + 39), rel=1e-6)
    assert one.evaluate([]) is None
    assert all(torch.equal(p, before[name]) for name, p in one.parameters.items())
    assert all(p.grad is None for p in one.parameters.values())
    assert one.optimiser_state() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_and_changes_nothing(bad: float) -> None:
    trained = learner()
    trained.step([batch(0, 12)], RATE)
    name, parameter = next(iter(trained.parameters.items()))
    with torch.no_grad():
        parameter.view(-1)[0] = bad
    before = {key: value.clone() for key, value in weights(trained).items() if key != name}
    with pytest.raises(TrainingDiverged, match=r"learning rate of 0\.01; lower lr"):
        trained.step([batch(1, 12)], RATE)
    for key, value in before.items():
        assert torch.equal(value, weights(trained)[key])
    assert all(each.grad is None for each in trained.parameters.values())
