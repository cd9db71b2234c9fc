"""The outer step against NumPy, torch and arithmetic by hand."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from foundry.engines.training.diloco.outer import nesterov_step, weighted_mean

Values = NDArray[np.float32]


def normal(seed: int, size: int = 1000) -> Values:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_the_mean_is_weighted_by_tokens() -> None:
    parts = [np.array([1, -2, 0], np.float32), np.array([5, 2, 4], np.float32)]
    assert weighted_mean(parts, [3, 1]).tolist() == [2, -1, 1]
    assert weighted_mean(parts, [7, 7]).tolist() == [3, 0, 2]


def test_the_mean_of_one_is_itself() -> None:
    assert weighted_mean([normal(0)], [12_345]).tobytes() == normal(0).tobytes()


def test_the_mean_has_one_order_of_addition() -> None:
    parts, weights = [normal(seed) for seed in range(5)], [3.0, 1.0, 4.0, 1.0, 5.0]
    expected = []
    for column in zip(*parts, strict=True):
        total = np.float32(0)
        for value, weight in zip(column, weights, strict=True):
            total = np.float32(total + np.float32(value * np.float32(np.float32(weight) / 14)))
        expected.append(total)
    assert weighted_mean(parts, weights).tolist() == expected
    exact = np.average(np.stack(parts).astype(np.float64), axis=0, weights=weights)
    assert weighted_mean(parts, weights) == pytest.approx(exact, abs=1e-6)


def test_the_mean_leaves_its_parts_alone() -> None:
    parts = [normal(0), normal(1)]
    weighted_mean(parts, [1, 2])
    assert parts[0].tobytes() == normal(0).tobytes()
    assert parts[1].tobytes() == normal(1).tobytes()


def test_two_steps_by_hand() -> None:
    """η 0.5, μ 0.5. v1 = 4, θ1 = 10 - (4 + 2)/2 = 7; v2 = 2 - 2 = 0, θ2 = 7 - (-2 + 0)/2 = 8."""
    theta, velocity = np.array([10], np.float32), np.array([0], np.float32)
    nesterov_step(theta, velocity, np.array([4], np.float32), lr=0.5, momentum=0.5)
    assert (theta.item(), velocity.item()) == (7, 4)
    nesterov_step(theta, velocity, np.array([-2], np.float32), lr=0.5, momentum=0.5)
    assert (theta.item(), velocity.item()) == (8, 0)


def test_a_constant_gradient_has_a_closed_form() -> None:
    """v_t = Δ(1 - μ^t)/(1 - μ), so each step takes η·Δ·(1 - μ^(t+1))/(1 - μ)."""
    theta, velocity = np.zeros(1, np.float32), np.zeros(1, np.float32)
    for _ in range(30):
        nesterov_step(theta, velocity, np.ones(1, np.float32), lr=0.7, momentum=0.9)
    assert velocity.item() == pytest.approx((1 - 0.9**30) / 0.1, rel=1e-5)
    expected = -0.7 * sum((1 - 0.9 ** (t + 1)) / 0.1 for t in range(1, 31))
    assert theta.item() == pytest.approx(expected, rel=1e-5)


def test_equal_to_a_scalar_float32_reference_bit_for_bit() -> None:
    theta, velocity = normal(0), np.zeros(1000, np.float32)
    mu, eta = np.float32(0.9), np.float32(0.7)
    expected = [[np.float32(t), np.float32(0)] for t in normal(0)]
    for step in range(4):
        delta = normal(10 + step)
        nesterov_step(theta, velocity, delta, lr=0.7, momentum=0.9)
        for row, d in zip(expected, delta, strict=True):
            row[1] = np.float32(np.float32(row[1] * mu) + d)
            row[0] = np.float32(row[0] - np.float32(eta * np.float32(d + np.float32(mu * row[1]))))
    assert theta.tobytes() == np.array([row[0] for row in expected], np.float32).tobytes()
    assert velocity.tobytes() == np.array([row[1] for row in expected], np.float32).tobytes()


def _assert_close(values: Values, expected: Values) -> None:
    """To a millionth of the largest."""
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (0.4, 0.9), (1.0, 0.5)])
def test_equal_to_torch(lr: float, momentum: float) -> None:
    theta, velocity = normal(0), np.zeros(1000, np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(normal(0)))
    optimiser = torch.optim.SGD([parameter], lr=lr, momentum=momentum, nesterov=True)
    for step in range(10):
        delta = normal(10 + step)
        nesterov_step(theta, velocity, delta, lr=lr, momentum=momentum)
        parameter.grad = torch.from_numpy(delta)
        optimiser.step()
        _assert_close(theta, parameter.detach().numpy())
    _assert_close(velocity, optimiser.state[parameter]["momentum_buffer"].numpy())


def test_no_momentum_and_a_rate_of_one_is_plain_averaging() -> None:
    """θ - mean(θ - θ_m) is the workers' mean (LocalSGD)."""
    start = normal(0)
    workers = [(start + np.float32(0.1) * normal(seed)).astype(np.float32) for seed in (1, 2, 3)]
    theta, velocity = start.copy(), np.zeros_like(start)
    delta = weighted_mean([start - worker for worker in workers], [1, 1, 1])
    nesterov_step(theta, velocity, delta, lr=1.0, momentum=0.0)
    assert theta == pytest.approx(np.mean(workers, axis=0, dtype=np.float64), abs=1e-6)
