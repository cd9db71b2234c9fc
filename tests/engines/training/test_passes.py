"""`forward_backward` and `optim_step` apart, and objectives through them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foundry.engines.training.learner import Learner
from foundry.engines.training.objectives.objective import LOSS, Loss
from foundry.engines.training.objectives.policy import ImportanceSampling, Ppo
from foundry.engines.training.objectives.supervised import CrossEntropy
from foundry.engines.training.optimisers.params import AdamParams
from foundry.engines.training.optimisers.scaler import LossScaler
from foundry.engines.training.packing import Batch, join
from foundry.errors import TrainingDiverged
from tests.engines.training.diloco.toy import Toy, batch, learner, weights

ADAM = AdamParams(lr=1e-2, weight_decay=0.1, grad_clip_norm=1.0)


def gradients(one: Learner) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in one.parameters.items() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys() and ours
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=atol)


def test_gradients_add_up_over_calls_until_they_are_applied() -> None:
    apart, together = learner(), learner()
    parts = [batch(0, 9), batch(1, 30)]
    before = weights(apart)
    for part in parts:
        apart.forward_backward([part], denominator=37)
    assert_same(weights(apart), before)
    together.forward_backward(parts, denominator=37)
    assert_same(gradients(apart), gradients(together))
    outcomes = [one.optim_step(ADAM) for one in (apart, together)]
    assert outcomes[0].applied and outcomes[0].grad_norm == pytest.approx(outcomes[1].grad_norm)
    assert_same(weights(apart), weights(together))
    assert gradients(apart) == {}


def test_log_probabilities_come_back_by_segment() -> None:
    one = learner()
    parts = [join([batch(0, 5), batch(1, 8)]), batch(2, 3)]
    for outcome in (one.forward(parts), one.forward_backward(parts)):
        assert [len(found) for found in outcome.log_probs] == [4, 7, 2]
        total = sum(found.sum().item() for found in outcome.log_probs)
        assert outcome.loss == outcome.metrics[LOSS] == pytest.approx(-total, rel=1e-6)
    toy, part = Toy(), batch(2, 3)
    hidden = toy(part.tokens_T, part.positions_T, part.segments)[part.sources_N]
    expected = toy.lm_head(hidden).log_softmax(-1).gather(-1, part.targets_N[:, None])
    torch.testing.assert_close(outcome.log_probs[-1], expected.squeeze(-1).detach())


def test_a_forward_pass_leaves_no_gradient() -> None:
    one = learner()
    one.forward([batch(0)])
    assert gradients(one) == {}


def test_a_custom_loss_is_a_cross_entropy_of_negative_weights() -> None:
    """As a client does: it differentiates its own function of the log-probabilities."""

    def custom(log_probs: Tensor) -> Tensor:
        return (log_probs.cos() * torch.arange(len(log_probs))).sum()

    def objective(log_probs: Tensor, batch: Batch) -> Loss:
        return Loss(custom(log_probs))

    direct, indirect = learner(), learner()
    outcome = direct.forward_backward([batch(0)], objective)
    assert outcome.loss == pytest.approx(custom(torch.cat(outcome.log_probs)).item())
    log_probs = torch.cat(indirect.forward([batch(0)]).log_probs).requires_grad_()
    (slope,) = torch.autograd.grad(custom(log_probs), log_probs)
    assert slope.min() < 0 < slope.max()
    weighted = replace(batch(0), weights_N=-slope)
    indirect.forward_backward([weighted], CrossEntropy())
    assert_same(gradients(indirect), gradients(direct), atol=1e-5)


def test_a_ratio_objective_on_fresh_samples_has_the_gradient_of_cross_entropy() -> None:
    one, other = learner(), learner()
    sampled = torch.cat(one.forward([batch(0)]).log_probs)
    values = {"sampling_log_probs": sampled, "advantages": torch.ones_like(sampled)}
    outcome = one.forward_backward([replace(batch(0), values=values)], ImportanceSampling())
    other.forward_backward([batch(0)])
    assert_same(gradients(one), gradients(other))
    assert outcome.metrics["ratio:mean"] == pytest.approx(1.0)
    assert outcome.loss == pytest.approx(-len(sampled))


def test_ppo_of_several_batches_reports_one_mean() -> None:
    one = learner()
    parts = []
    for number, tokens in ((0, 5), (1, 9)):
        log_probs = torch.cat(one.forward([batch(number, tokens)]).log_probs)
        values = {"sampling_log_probs": log_probs - number, "advantages": torch.ones(tokens - 1)}
        parts.append(replace(batch(number, tokens), values=values))
    metrics = one.forward(parts, Ppo()).metrics
    assert metrics["ratio:mean"] == pytest.approx((4 * 1.0 + 8 * 2.718281828) / 12)
    assert metrics["ratio:max"] == pytest.approx(2.718281828)


def test_adam_s_numbers_are_the_call_s() -> None:
    one, other = learner(), learner()
    for adam in (AdamParams(lr=1e-2), AdamParams(lr=1e-3, beta1=0.5, beta2=0.6, eps=1e-3)):
        one.forward_backward([batch(0)])
        one.optim_step(adam)
    optimiser = torch.optim.AdamW(other.parameters.values(), lr=1e-2, betas=(0.9, 0.95), eps=1e-12)
    optimiser.param_groups[0]["weight_decay"] = 0.0
    for change in ({}, {"lr": 1e-3, "betas": (0.5, 0.6), "eps": 1e-3}):
        optimiser.param_groups[0].update(change)
        other.forward_backward([batch(0)])
        optimiser.step()
        optimiser.zero_grad()
    assert_same(weights(one), weights(other))


def test_an_update_without_gradients_changes_nothing() -> None:
    one = learner()
    before = weights(one)
    assert one.optim_step(ADAM).grad_norm == 0
    assert all(torch.equal(value, before[name]) for name, value in weights(one).items())


def scaled_learner(scaler: LossScaler) -> Learner:
    model = Toy()
    return Learner(
        model,
        dict(model.named_parameters()),
        lr=1e-2,
        weight_decay=0.1,
        grad_clip=1.0,
        scaler=scaler,
    )


def test_a_scaled_loss_gives_the_same_update() -> None:
    plain, scaled = learner(), scaled_learner(LossScaler(scale=2.0**10))
    outcomes = [one.step([batch(0)], 1e-2) for one in (plain, scaled)]
    assert outcomes[1].loss == pytest.approx(outcomes[0].loss)
    assert outcomes[1].grad_norm == pytest.approx(outcomes[0].grad_norm, rel=1e-5)
    assert_same(weights(scaled), weights(plain))


def test_an_overflow_skips_the_update_and_halves_the_scale() -> None:
    scaler = LossScaler(scale=4.0, growth_interval=2)
    one = scaled_learner(scaler)
    before = weights(one)
    one.forward_backward([batch(0)])
    next(iter(one.parameters.values())).grad = torch.full((17, 8), torch.inf)
    assert not one.optim_step(ADAM).applied
    assert (scaler.scale, scaler.skipped) == (2.0, 1)
    assert all(torch.equal(value, before[name]) for name, value in weights(one).items())
    for _ in range(2):
        one.step([batch(0)], 1e-2)
    assert (scaler.scale, scaler.skipped) == (4.0, 1)
    other = scaled_learner(LossScaler())
    other.load_run_state(one.run_state())
    assert other.scaler is not None
    assert (other.scaler.scale, other.scaler.skipped) == (4.0, 1)


def test_a_skipped_step_reports_no_number_that_json_lacks() -> None:
    one = scaled_learner(LossScaler(scale=2.0**140))
    outcome = one.step([batch(0)], 1e-2)
    assert outcome.grad_norm == 0 and outcome.loss < 10
    assert one.scaler is not None and one.scaler.skipped == 1


def test_what_overflows_at_the_smallest_scale_diverges() -> None:
    one = scaled_learner(LossScaler(scale=1.0))
    one.forward_backward([batch(0)])
    next(iter(one.parameters.values())).grad = torch.full((17, 8), torch.nan)
    with pytest.raises(TrainingDiverged, match="gradient norm nan"):
        one.optim_step(ADAM)


def test_float16_that_ends_too_early_is_told_the_way_out() -> None:
    """Activations beyond 65,504 are no matter of the learning rate."""
    one = scaled_learner(LossScaler())
    with torch.no_grad():
        next(iter(one.parameters.values())).view(-1)[0] = float("inf")
    with pytest.raises(TrainingDiverged, match="set precision to float32, lower lr"):
        one.step([batch(0, 12)], 1e-2)
