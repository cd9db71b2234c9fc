"""Each objective against its definition by hand, its gradient, and its edges."""

from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor

from foundry.engines.training.objectives.named import OBJECTIVES, open_objective
from foundry.engines.training.objectives.objective import LOSS, Loss
from foundry.engines.training.objectives.policy import (
    Cispo,
    Dro,
    Gspo,
    ImportanceSampling,
    Ppo,
    Reinforce,
    k3,
)
from foundry.engines.training.objectives.supervised import CrossEntropy
from foundry.engines.training.packing import Batch
from foundry.errors import InvalidRequest
from tests.engines.training.objectives.conftest import MakeBatch


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Ratios of 1.5, 0.5, 1, 1.5 and 0.5 against the bounds 0.8 and 1.2.
RATIOS = doubles(1.5, 0.5, 1.0, 1.5, 0.5)
ADVANTAGES = doubles(2.0, 2.0, 3.0, -2.0, -2.0)
SAMPLED = doubles(-1.0, -2.0, -0.5, -3.0, -0.1)
NOW = SAMPLED + RATIOS.log()


@pytest.fixture
def batch(make_batch: MakeBatch) -> Batch:
    return make_batch(2, 3, advantages=ADVANTAGES, sampling_log_probs=SAMPLED)


def evaluate(objective: Any, log_probs: Tensor, batch: Batch) -> tuple[float, list[float], Loss]:
    """Value and gradient of the objective, which is minus the loss."""
    variable = log_probs.clone().requires_grad_()
    loss: Loss = objective(variable, batch)
    (gradient,) = torch.autograd.grad(loss.total, variable)
    return -loss.total.item(), (-gradient).tolist(), loss


def test_cross_entropy_is_the_weighted_sum(make_batch: MakeBatch) -> None:
    weights = doubles(1.0, -0.5, 0.0)
    value, gradient, loss = evaluate(
        CrossEntropy(), doubles(-1.0, -2.0, -4.0), make_batch(3, weights=weights)
    )
    assert value == pytest.approx(-1.0 + 1.0)
    assert gradient == weights.tolist()
    assert loss.metrics[LOSS].item() == pytest.approx(-value)


def test_reinforce_is_advantage_times_log_prob(batch: Batch) -> None:
    value, gradient, _ = evaluate(Reinforce(), NOW, batch)
    assert value == pytest.approx((ADVANTAGES * NOW).sum().item())
    assert gradient == ADVANTAGES.tolist()
    assert Reinforce().weights(batch) is batch.values["advantages"]


def test_importance_sampling_is_ratio_times_advantage(batch: Batch) -> None:
    value, gradient, loss = evaluate(ImportanceSampling(), NOW, batch)
    assert value == pytest.approx(3.0 + 1.0 + 3.0 - 3.0 - 1.0)
    # d(rA)/dlogp = rA
    assert gradient == pytest.approx([3.0, 1.0, 3.0, -3.0, -1.0])
    assert loss.metrics["ratio:max"].item() == pytest.approx(1.5)


def test_ppo_clips_only_what_would_gain(batch: Batch) -> None:
    value, gradient, loss = evaluate(Ppo(), NOW, batch)
    # min(rA, clip(r)A) = 1.2·2, 0.5·2, 3, 1.5·-2, 0.8·-2
    assert value == pytest.approx(2.4 + 1.0 + 3.0 - 3.0 - 1.6)
    assert gradient == pytest.approx([0.0, 1.0, 3.0, -3.0, 0.0])
    assert loss.metrics["clip_fraction:mean"].item() == pytest.approx(0.8)


def test_a_ratio_on_the_bound_is_not_clipped(make_batch: MakeBatch) -> None:
    edge = make_batch(2, advantages=doubles(1.0, -1.0), sampling_log_probs=doubles(0.0, 0.0))
    value, _, loss = evaluate(Ppo(), doubles(log(1.2), log(0.8)), edge)
    assert value == pytest.approx(1.2 - 0.8)
    assert loss.metrics["clip_fraction:mean"].item() == 0


def test_thresholds_of_a_token_override_the_configuration(make_batch: MakeBatch) -> None:
    wide = make_batch(
        2,
        advantages=doubles(1.0, 1.0),
        sampling_log_probs=doubles(0.0, 0.0),
        clip_high_threshold=doubles(1.1, 9.0),
    )
    for objective in (Ppo(), Cispo()):
        _, gradient, _ = evaluate(objective, doubles(log(1.5), log(1.5)), wide)
        clipped = 0.0 if isinstance(objective, Ppo) else 1.1
        assert gradient == pytest.approx([clipped, 1.5])


def test_ppo_minus_the_distance_from_a_reference(make_batch: MakeBatch) -> None:
    reference = doubles(-1.5, -1.0)
    batch = make_batch(
        2,
        advantages=doubles(0.0, 0.0),
        sampling_log_probs=doubles(-1.0, -2.0),
        reference_log_probs=reference,
    )
    value, _, loss = evaluate(Ppo(kl_coef=0.1), doubles(-1.0, -2.0), batch)
    distance = (exp(-0.5) + 0.5 - 1) + (exp(1.0) - 1.0 - 1)
    assert value == pytest.approx(-0.1 * distance)
    assert loss.metrics["kl:mean"].item() == pytest.approx(distance / 2)
    assert k3(reference, reference).tolist() == [0.0, 0.0]


def test_cispo_keeps_the_gradient_of_a_clipped_token(batch: Batch) -> None:
    value, gradient, _ = evaluate(Cispo(), NOW, batch)
    clipped = doubles(1.2, 0.8, 1.0, 1.2, 0.8)
    assert value == pytest.approx((clipped * ADVANTAGES * NOW).sum().item())
    assert gradient == pytest.approx((clipped * ADVANTAGES).tolist())


def test_dro_pulls_towards_the_sampler(batch: Batch) -> None:
    value, gradient, _ = evaluate(Dro(beta=0.5), NOW, batch)
    gap = RATIOS.log()
    assert value == pytest.approx((ADVANTAGES * NOW - 0.25 * gap.square()).sum().item())
    assert gradient == pytest.approx((ADVANTAGES - 0.5 * gap).tolist())


def test_gspo_has_one_ratio_per_sequence(batch: Batch) -> None:
    """√(1.5·0.5) = 0.87 and ∛(1·1.5·0.5) = 0.91; the bounds here clip the first only."""
    value, gradient, _ = evaluate(Gspo(0.9, 1.1), NOW, batch)
    first, second = (1.5 * 0.5) ** 0.5, (1.5 * 0.5) ** (1 / 3)
    # A > 0 and below the lower bound: the smaller, unclipped one counts.
    expected = [first * 2, first * 2, second * 3, second * -2, second * -2]
    assert value == pytest.approx(sum(expected))
    assert gradient == pytest.approx(expected)


def test_gspo_clips_and_masks(make_batch: MakeBatch) -> None:
    masked = make_batch(
        3,
        advantages=doubles(1.0, 1.0, -1.0),
        sampling_log_probs=doubles(0.0, 0.0, 0.0),
        sequence_ratio_mask=doubles(1.0, 1.0, 0.0),
    )
    value, gradient, loss = evaluate(Gspo(), doubles(0.2, 0.4, 9.0), masked)
    assert value == pytest.approx(2 * (1 + 4e-4) - exp(0.3))
    assert gradient == pytest.approx([0.0, 0.0, -exp(0.3)])
    assert loss.metrics["clip_fraction:mean"].item() == 1


OBJECTIVES_OF_RATIOS = [ImportanceSampling(), Ppo(), Ppo(kl_coef=0.2), Dro(), Reinforce()]


@pytest.mark.parametrize("objective", OBJECTIVES_OF_RATIOS, ids=repr)
def test_gradients_pass_a_numerical_check(make_batch: MakeBatch, objective: Any) -> None:
    batch = make_batch(
        2,
        3,
        weights=doubles(1.0, 0.5, 2.0, 1.0, 0.0),
        advantages=ADVANTAGES,
        sampling_log_probs=SAMPLED,
        reference_log_probs=SAMPLED - 0.3,
    )
    assert torch.autograd.gradcheck(
        lambda log_probs: objective(log_probs, batch).total, (NOW.clone().requires_grad_(),)
    )


@pytest.mark.parametrize("name", ["ppo", "cispo", "gspo", "importance_sampling", "dro"])
def test_fresh_samples_give_reinforce_s_gradient(make_batch: MakeBatch, name: str) -> None:
    """r = 1 everywhere; advantages of 0 teach nothing."""
    advantages = doubles(1.0, 0.0, -2.0)
    batch = make_batch(3, advantages=advantages, sampling_log_probs=SAMPLED[:3])
    _, gradient, _ = evaluate(open_objective(name), SAMPLED[:3], batch)
    assert gradient == pytest.approx(advantages.tolist(), abs=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES.keys() - {"dpo"})
def test_a_batch_without_targets_costs_nothing(make_batch: MakeBatch, name: str) -> None:
    empty = {key: doubles() for key in ("advantages", "sampling_log_probs")}
    loss = open_objective(name)(doubles(), make_batch(0, **empty))
    assert loss.total.item() == 0
    assert all(value.isfinite() for value in loss.metrics.values())


def test_what_an_objective_misses_is_said(make_batch: MakeBatch) -> None:
    with pytest.raises(InvalidRequest, match="needs sampling_log_probs for every target token"):
        Ppo()(doubles(-1.0), make_batch(1, advantages=doubles(1.0)))


def test_unknown_names_and_fields_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no objective 'stable_reinforce': use cross_entropy"):
        open_objective("stable_reinforce")
    with pytest.raises(InvalidRequest, match="ppo has no field 'epsilon': it has clip_low"):
        open_objective("ppo", {"epsilon": 0.2})
    with pytest.raises(InvalidRequest, match="it has no fields"):
        open_objective("cross_entropy", {"beta": 0.2})
    assert open_objective("ppo", {"clip_low_threshold": 0.5}) == Ppo(clip_low_threshold=0.5)
