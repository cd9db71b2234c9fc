from math import log

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from foundry.engines.training.objectives import cross_entropy
from foundry.engines.training.objectives.cross_entropy import (
    cross_entropy_sum,
    weighted_cross_entropy,
)
from foundry.engines.training.objectives.head import Head, chunk_rows

CPU = torch.device("cpu")


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


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _reference(
    head: Head, hidden: Tensor, targets: Tensor, weights: Tensor, factor: float
) -> Tensor:
    """The written-out definition, under torch's own autograd."""
    assert head.low_NR is not None and head.adapter_VR is not None
    logits = hidden @ head.weight_VH.T + head.low_NR @ head.adapter_VR.T
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * (logits / head.softcap).tanh()
    log_probs = (logits / head.temperature).log_softmax(-1)
    picked = log_probs.gather(-1, targets.view(len(targets), -1))
    return -factor * (picked * weights.view(len(targets), -1)).sum()


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("columns", [None, 3])
@pytest.mark.parametrize("factor", [1.0, -0.3])
def test_gradients_equal_those_of_the_definition(
    softcap: float | None, columns: int | None, factor: float
) -> None:
    """With weights of both signs, an adapter, a cap, a scale and a temperature."""
    torch.manual_seed(0)
    shape = (5,) if columns is None else (5, columns)
    targets, weights = torch.randint(0, 7, shape), torch.randn(shape, dtype=torch.float64)
    parts = (_double(5, 3), _double(7, 3), _double(5, 2), _double(7, 2))
    hidden, weight, low, adapter = parts
    head = Head(weight, softcap, 0.8, low, adapter, temperature=1.5)
    ours = factor * weighted_cross_entropy(hidden, head, targets, weights, rows=2)[0]
    theirs = _reference(head, hidden, targets, weights, factor)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, parts), torch.autograd.grad(theirs, parts))


def test_gradient_passes_a_numerical_check() -> None:
    torch.manual_seed(0)
    weight, targets = torch.randn(7, 3, dtype=torch.float64), torch.randint(0, 7, (5,))
    assert torch.autograd.gradcheck(
        lambda hidden: cross_entropy_sum(hidden, weight, targets, 2), (_double(5, 3),)
    )


def test_the_gradient_of_the_weight_is_handed_over_not_copied() -> None:
    hidden, weight = torch.randn(5, 3), torch.randn(7, 3, requires_grad=True)
    loss = cross_entropy_sum(hidden, weight, torch.tensor([0, 1, 2, 3, 4]))
    torch.autograd.backward(loss, retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.backward(loss)


def test_weights_multiply_each_token_s_cost() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 3), torch.randn(9, 3)
    targets, weights = torch.randint(0, 9, (4,)), torch.tensor([0.5, -2.0, 0.0, 1.0])
    total, log_probs = weighted_cross_entropy(hidden, Head(weight), targets, weights)
    expected = (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    torch.testing.assert_close(log_probs, expected)
    assert total.item() == pytest.approx(-(weights * expected).sum().item(), rel=1e-5)


def test_a_soft_cap_bends_the_logits() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 3), torch.randn(7, 3)
    targets = torch.randint(0, 7, (5,))
    logits = 2.0 * torch.tanh(hidden @ weight.T / 2.0)
    expected = functional.cross_entropy(logits, targets, reduction="sum").item()
    ours, _ = weighted_cross_entropy(hidden, Head(weight, softcap=2.0), targets, rows=2)
    assert ours.item() == pytest.approx(expected, abs=1e-6)


def test_a_frozen_projection_gets_no_gradient() -> None:
    hidden, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    torch.autograd.backward(cross_entropy_sum(hidden, weight, torch.tensor([0, 1, 2, 3, 4])))
    assert hidden.grad is not None
    assert weight.grad is None


def test_chunks_bound_the_logits() -> None:
    assert chunk_rows(256, CPU) == 2048
    assert chunk_rows(49_152, CPU) * 49_152 <= 2**23
    assert chunk_rows(2**20, CPU) == 64
    assert chunk_rows(128_256, torch.device("cuda")) == 2048


@pytest.mark.parametrize("weighted", [False, True])
def test_a_gpus_way_gives_the_same_log_probabilities_and_gradient(weighted: bool) -> None:
    torch.manual_seed(0)
    product = (3 * torch.randn(9, 40)).bfloat16()
    # One that is all but certain: what its probability lacks to 1 must survive.
    product[0, 5] = 16.0
    targets = torch.cat([torch.tensor([5]), torch.randint(0, 40, (8,))]).unsqueeze(-1)
    weights = torch.linspace(-1, 2, 9).double().unsqueeze(-1) if weighted else None
    identity = Head(torch.empty(40, 1)).bending
    expected = cross_entropy._score_bent(product.double(), targets, weights, identity, True)
    found = cross_entropy._score_in_place(product.clone(), targets, weights, identity, True)
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-5, atol=1e-7)
    assert found[1] is not None and expected[1] is not None
    torch.testing.assert_close(found[1].double(), expected[1], rtol=2**-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_factor_scales_the_sum_and_every_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(6, 4, dtype=dtype, requires_grad=True)
    weight = torch.randn(20, 4, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, 20, (6,))
    plain, log_probs = weighted_cross_entropy(hidden, Head(weight), targets)
    scaled, same = weighted_cross_entropy(hidden, Head(weight), targets, factor=0.25)
    assert scaled.item() == pytest.approx(plain.item() / 4, rel=1e-6)
    assert torch.equal(log_probs, same)
    expected = torch.autograd.grad(plain, (hidden, weight))
    found = torch.autograd.grad(scaled, (hidden, weight))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs / 4, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


def test_a_large_factor_keeps_gradients_that_float16_would_lose() -> None:
    hidden = torch.tensor([[20.0, 0.0]], dtype=torch.float16, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float16)
    total, _ = weighted_cross_entropy(hidden, Head(weight), torch.tensor([0]), factor=65_536.0)
    (grad,) = torch.autograd.grad(total, hidden)
    # softmax of 0 against 20 is 2e-9, below the smallest float16; times 65,536 it is not.
    assert grad[0, 1].item() == pytest.approx(65_536 / (1 + 2.718281828**20), rel=1e-2)


def test_logits_in_half_precision_keep_twice_its_bits() -> None:
    """Logits of 20 and more: rounded to bfloat16, the mean over 256 tokens would be 1e-3 off."""
    torch.manual_seed(0)
    hidden, weight = 4 * torch.randn(256, 32).bfloat16(), torch.randn(500, 32).bfloat16()
    targets = torch.randint(0, 500, (256,))
    _, found = weighted_cross_entropy(hidden, Head(weight), targets)
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(-1, targets[:, None])
    assert (found - exact.squeeze(-1)).abs().max() <= 1e-2
    # One unit of bfloat16's last place is 0.5 for the largest of these logits.
    assert (found - exact.squeeze(-1)).square().mean().sqrt() <= 1e-3
