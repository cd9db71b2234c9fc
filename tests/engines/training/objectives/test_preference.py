from math import exp, log

import pytest
import torch
from torch import Tensor

from foundry.engines.training.objectives.preference import Dpo
from foundry.errors import InvalidRequest
from tests.engines.training.objectives.conftest import MakeBatch

# Two pairs: sums of (logp - ref) are 0.6 and -0.2, then -1.0 and 0.5.
GAPS = torch.tensor([0.5, 0.1, -0.2, -1.0, 0.2, 0.3], dtype=torch.float64)
SIZES = (2, 1, 1, 2)
REFERENCE = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.1, -0.7], dtype=torch.float64)
MARGINS = (0.8, -1.5)


def logistic(x: float) -> float:
    return log(1 + exp(-x))


def total(objective: Dpo, make_batch: MakeBatch) -> float:
    batch = make_batch(*SIZES, reference_log_probs=REFERENCE)
    return objective(REFERENCE + GAPS, batch).total.item()


def test_log_2_where_the_model_is_the_reference(make_batch: MakeBatch) -> None:
    batch = make_batch(*SIZES, reference_log_probs=REFERENCE)
    loss = Dpo()(REFERENCE, batch)
    assert loss.total.item() == pytest.approx(2 * log(2))
    assert loss.metrics["pairs:sum"].item() == 2
    assert loss.metrics["accuracy:sum"].item() == 0


def test_sigmoid_and_label_smoothing_by_hand(make_batch: MakeBatch) -> None:
    right = [logistic(0.1 * margin) for margin in MARGINS]
    wrong = [logistic(-0.1 * margin) for margin in MARGINS]
    assert total(Dpo(), make_batch) == pytest.approx(sum(right))
    expected = 0.8 * sum(right) + 0.2 * sum(wrong)
    assert total(Dpo(label_smoothing=0.2), make_batch) == pytest.approx(expected)


def test_ipo_by_hand(make_batch: MakeBatch) -> None:
    expected = sum((margin - 5.0) ** 2 for margin in MARGINS)
    assert total(Dpo(kind="ipo"), make_batch) == pytest.approx(expected)


def test_length_norm_divides_by_each_reply_s_tokens(make_batch: MakeBatch) -> None:
    expected = logistic(0.1 * (0.3 + 0.2)) + logistic(0.1 * (-1.0 - 0.25))
    assert total(Dpo(length_norm=True), make_batch) == pytest.approx(expected)


def test_metrics_tell_rewards_and_margins(make_batch: MakeBatch) -> None:
    batch = make_batch(*SIZES, reference_log_probs=REFERENCE)
    metrics = Dpo(beta=0.5)(REFERENCE + GAPS, batch).metrics
    assert metrics["chosen_reward:sum"].item() == pytest.approx(0.5 * (0.6 - 1.0))
    assert metrics["rejected_reward:sum"].item() == pytest.approx(0.5 * (-0.2 + 0.5))
    assert metrics["margin:sum"].item() == pytest.approx(0.5 * sum(MARGINS))
    assert metrics["accuracy:sum"].item() == 1


@pytest.mark.parametrize(
    "objective",
    [Dpo(), Dpo(label_smoothing=0.3), Dpo(kind="ipo"), Dpo(length_norm=True)],
    ids=repr,
)
def test_gradients_pass_a_numerical_check(objective: Dpo, make_batch: MakeBatch) -> None:
    batch = make_batch(*SIZES, reference_log_probs=REFERENCE)

    def loss(log_probs: Tensor) -> Tensor:
        return objective(log_probs, batch).total

    assert torch.autograd.gradcheck(loss, ((REFERENCE + GAPS).requires_grad_(),))


def test_a_chosen_reply_alone_is_refused(make_batch: MakeBatch) -> None:
    with pytest.raises(InvalidRequest, match="a rejected reply for every chosen one"):
        Dpo()(REFERENCE[:2], make_batch(2, reference_log_probs=REFERENCE[:2]))
