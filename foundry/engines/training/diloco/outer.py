"""The outer optimiser: Nesterov momentum over averaged outer gradients, in float32 on the host."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


def weighted_mean(parts: Sequence[Values], weights: Sequence[float]) -> Values:
    """Σ w·part / Σ w in float32, added in the order given: the same bits on every worker.

    Args:
        weights: > 0, such as the tokens that each part stands for.
    """
    total = np.float32(sum(weights))
    mean = np.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        mean += part * (np.float32(weight) / total)
    return mean


def nesterov_step(
    theta: Values, velocity: Values, delta: Values, lr: float, momentum: float
) -> None:
    """v ← μv + Δ; θ ← θ - η(Δ + μv), in place (arXiv:2311.08105, algorithm 1).

    Args:
        delta: outer gradient, θ minus the mean of the workers' parameters.
    """
    mu, eta = np.float32(momentum), np.float32(lr)
    velocity *= mu
    velocity += delta
    theta -= eta * (delta + mu * velocity)
