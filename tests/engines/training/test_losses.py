from math import log

import pytest
import torch
from torch.nn import functional

from foundry.engines.training.losses import chunk_rows, cross_entropy_sum


def test_uniform_logits_cost_log_of_the_vocabulary() -> None:
    loss = cross_entropy_sum(torch.zeros(3, 4), torch.randn(10, 4), torch.tensor([0, 5, 9]))
    assert loss.item() == pytest.approx(3 * log(10))


def test_no_trained_position_costs_nothing() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    loss = cross_entropy_sum(hidden, torch.randn(10, 4), torch.zeros(0, dtype=torch.long))
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert hidden.grad is not None and hidden.grad.shape == (0, 4)


@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_value_and_gradients_equal_torch_for_every_chunk_size(rows: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(11, 8, requires_grad=True)
    weight = torch.randn(23, 8, requires_grad=True)
    targets = torch.randint(0, 23, (11,))
    ours = cross_entropy_sum(hidden, weight, targets, rows) / 11
    grads = torch.autograd.grad(ours, (hidden, weight))
    theirs = functional.cross_entropy(hidden @ weight.T, targets)
    expected = torch.autograd.grad(theirs, (hidden, weight))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    torch.testing.assert_close(grads, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_gradient_passes_a_numerical_check(softcap: float | None) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 7, (5,))
    assert torch.autograd.gradcheck(
        lambda h, w: cross_entropy_sum(h, w, targets, 2, softcap), (hidden, weight)
    )


def test_a_soft_cap_bends_the_logits() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 3), torch.randn(7, 3)
    targets = torch.randint(0, 7, (5,))
    logits = 2.0 * torch.tanh(hidden @ weight.T / 2.0)
    expected = functional.cross_entropy(logits, targets, reduction="sum").item()
    ours = cross_entropy_sum(hidden, weight, targets, 2, softcap=2.0)
    assert ours.item() == pytest.approx(expected, abs=1e-6)


def test_a_frozen_projection_gets_no_gradient() -> None:
    hidden, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    torch.autograd.backward(cross_entropy_sum(hidden, weight, torch.tensor([0, 1, 2, 3, 4])))
    assert hidden.grad is not None
    assert weight.grad is None


def test_chunks_bound_the_logits() -> None:
    assert chunk_rows(256) == 2048
    assert chunk_rows(49_152) * 49_152 <= 2**24
    assert chunk_rows(2**20) == 64
