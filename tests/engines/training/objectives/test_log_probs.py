import pytest
import torch
from torch import Tensor

from foundry.engines.training.objectives.cross_entropy import weighted_cross_entropy
from foundry.engines.training.objectives.head import Head
from foundry.engines.training.objectives.log_probs import token_log_probs


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("rows", "block"), [(1, 1), (2, 3), (4, 100), (100, 4)])
@pytest.mark.parametrize("columns", [None, 3])
def test_values_and_gradients_equal_torch_for_every_chunk(
    rows: int, block: int, columns: int | None
) -> None:
    torch.manual_seed(0)
    hidden, weight = _double(6, 4), _double(11, 4)
    targets = torch.randint(0, 11, (6,) if columns is None else (6, columns))
    ours = token_log_probs(hidden, Head(weight), targets, rows, block)
    theirs = (hidden @ weight.T).log_softmax(-1).gather(-1, targets.view(6, -1))
    theirs = theirs.view(targets.shape)
    torch.testing.assert_close(ours, theirs)
    # Any function of them: the gradient arrives from outside.
    found = torch.autograd.grad((ours.exp() * ours.cos()).sum(), (hidden, weight))
    expected = torch.autograd.grad((theirs.exp() * theirs.cos()).sum(), (hidden, weight))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_gradient_passes_a_numerical_check(softcap: float | None) -> None:
    torch.manual_seed(0)
    targets = torch.randint(0, 7, (5,))

    def log_probs(hidden: Tensor, weight: Tensor, low: Tensor, adapter: Tensor) -> Tensor:
        head = Head(weight, softcap, 0.8, low, adapter, temperature=1.5)
        return token_log_probs(hidden, head, targets, 2, 3)

    parts = (_double(5, 3), _double(7, 3), _double(5, 2), _double(7, 2))
    assert torch.autograd.gradcheck(log_probs, parts)


def test_positions_without_a_gradient_cost_nothing_in_the_backward_pass() -> None:
    """They may hold anything, even what is no number."""
    torch.manual_seed(0)
    hidden = torch.randn(3, 4)
    hidden[1] = torch.nan
    hidden.requires_grad_()
    weight = torch.randn(9, 4, requires_grad=True)
    found = token_log_probs(hidden, Head(weight), torch.tensor([1, 2, 3]))
    torch.autograd.backward(found[[0, 2]].sum())
    assert hidden.grad is not None and weight.grad is not None
    assert hidden.grad[1].abs().sum() == 0
    assert weight.grad.isfinite().all()


def test_half_precision_is_not_rounded_on_the_way() -> None:
    """bfloat16 states and weights, logits of about 30: rounded ones would be off by a tenth."""
    torch.manual_seed(0)
    hidden, weight = 4 * torch.randn(64, 32).bfloat16(), torch.randn(500, 32).bfloat16()
    targets = torch.randint(0, 500, (64,))
    found = token_log_probs(hidden, Head(weight), targets)
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(-1, targets[:, None])
    assert found.dtype == torch.float32
    assert (found - exact.squeeze(-1)).abs().max() < 1e-4


def test_both_operators_agree() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 3), torch.randn(7, 3)
    targets = torch.randint(0, 7, (5,))
    found = token_log_probs(hidden, Head(weight), targets, 2, 3)
    _, expected = weighted_cross_entropy(hidden, Head(weight), targets)
    torch.testing.assert_close(found, expected)


def test_no_position_at_all_is_no_error() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    found = token_log_probs(hidden, Head(torch.randn(9, 4)), torch.zeros(0, dtype=torch.long))
    torch.autograd.backward(found.sum())
    assert found.shape == (0,) and hidden.grad is not None
