from math import log

import pytest
import torch
from torch import Tensor

from foundry.engines.training.objectives.distillation import TopKDivergence, distillation
from foundry.engines.training.objectives.head import Head
from foundry.engines.training.objectives.objective import LOSS
from foundry.engines.training.objectives.scoring import score
from tests.engines.training.objectives.conftest import MakeBatch

NONE = -torch.inf


def test_a_student_like_its_teacher_costs_nothing(make_batch: MakeBatch) -> None:
    teacher = torch.tensor([[NONE, 0.5, 0.2], [NONE, 0.9, 0.05]], dtype=torch.float64)
    teacher[:, 1:].log_()
    student = teacher.clone()
    student[:, 0] = -3.0
    loss = TopKDivergence()(student, make_batch(2, columns=3, teacher_log_probs=teacher))
    assert loss.total.item() == pytest.approx(0.0, abs=1e-12)


def test_divergence_by_hand_with_the_bucket_of_the_rest(make_batch: MakeBatch) -> None:
    teacher = torch.tensor([[NONE, log(0.5), log(0.25)]], dtype=torch.float64)
    student = torch.tensor([[-9.0, log(0.25), log(0.25)]], dtype=torch.float64)
    loss = TopKDivergence()(student, make_batch(1, columns=3, teacher_log_probs=teacher))
    # 0.5·log 2 + 0.25·log 1 + 0.25·log(0.25/0.5)
    assert loss.total.item() == pytest.approx(0.5 * log(2) - 0.25 * log(2))


def test_gradient_passes_a_numerical_check(make_batch: MakeBatch) -> None:
    teacher = torch.tensor([[NONE, 0.5, 0.2], [NONE, 0.6, 0.3]], dtype=torch.float64)
    teacher[:, 1:].log_()
    weights = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64)
    batch = make_batch(2, columns=3, weights=weights, teacher_log_probs=teacher)
    student = torch.tensor([[-1.0, -2.0, -1.5], [-0.5, -2.5, -3.0]], dtype=torch.float64)

    def loss(log_probs: Tensor) -> Tensor:
        return TopKDivergence()(log_probs, batch).total

    assert torch.autograd.gradcheck(loss, (student.requires_grad_(),))


def test_the_sum_equals_its_definition_over_the_whole_vocabulary(make_batch: MakeBatch) -> None:
    """The teacher lists every token, so nothing is left for the bucket."""
    torch.manual_seed(0)
    alpha, temperature = 0.7, 2.0
    hidden = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64)
    teacher = (torch.randn(4, 5, dtype=torch.float64) / temperature).log_softmax(-1)
    text = torch.tensor([1, 0, 4, 2])
    empty = torch.full((4, 1), NONE, dtype=torch.float64)
    batch = make_batch(4, columns=6, teacher_log_probs=torch.cat((empty, teacher), -1))
    batch.targets_N.copy_(torch.cat((text[:, None], torch.arange(5).expand(4, 5)), -1))
    marks = torch.zeros(4, 6, dtype=torch.float64)
    marks[:, 0] = 1
    object.__setattr__(batch, "weights_N", marks)
    found = score(hidden, Head(weight), batch, distillation(alpha, temperature), 0.25)
    logits = hidden @ weight.T
    tempered = (logits / temperature).log_softmax(-1)
    divergence = (teacher.exp() * (teacher - tempered)).sum()
    entropy = -logits.log_softmax(-1).gather(-1, text[:, None]).sum()
    expected = alpha * temperature**2 * divergence + (1 - alpha) * entropy
    assert found.total.item() == pytest.approx(0.25 * expected.item(), rel=1e-6)
    assert found.metrics[LOSS].item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(found.total, hidden),
        torch.autograd.grad(0.25 * expected, hidden),
        rtol=1e-6,
        atol=1e-6,
    )
