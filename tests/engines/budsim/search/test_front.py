"""Fronts and volumes against closed forms, brute force and moocore."""

import numpy as np
import pytest

from foundry.engines.budsim.search.front import (
    REFERENCE,
    hypervolume,
    hypervolume_ratio,
    non_dominated,
    normalised,
    spread,
)


def _brute_force(points: np.ndarray) -> list[int]:
    return [
        row
        for row, point in enumerate(points)
        if not ((points <= point).all(axis=1) & (points < point).any(axis=1)).any()
    ]


def test_the_front_equals_pairwise_comparison() -> None:
    points = np.random.default_rng(1).random((400, 3))
    assert non_dominated(points).tolist() == _brute_force(points)


def test_of_equal_points_the_first_stays() -> None:
    points = np.array([[2.0, 2, 2], [1, 1, 1], [1, 1, 1], [0, 2, 2]])
    assert non_dominated(points).tolist() == [1, 3]


def test_the_volume_of_one_point_is_its_box() -> None:
    assert hypervolume(np.array([[0.1, 0.6, 1.0]])) == pytest.approx(1.0 * 0.5 * 0.1)


def test_two_boxes_overlap_once() -> None:
    points = np.array([[0.1, 0.6, 0.1], [0.6, 0.1, 0.1]])
    assert hypervolume(points) == pytest.approx(1.0 * (2 * 1.0 * 0.5 - 0.5 * 0.5))


def test_points_beyond_the_reference_add_nothing() -> None:
    assert hypervolume(np.array([[0.0, 0.0, REFERENCE]])) == 0.0


def test_the_volume_equals_moocore() -> None:
    import moocore  # type: ignore[import-untyped]

    points = np.random.default_rng(2).random((60, 3))
    reference = moocore.hypervolume(points, ref=np.full(3, REFERENCE))
    assert hypervolume(points) == pytest.approx(reference, rel=1e-12)


def test_logarithms_are_scaled_and_flat_objectives_vanish() -> None:
    front = np.array([[1.0, 5.0, 10.0], [100.0, 5.0, 1000.0], [10.0, 5.0, 100.0]])
    low, high = front.min(axis=0), front.max(axis=0)
    scaled = normalised(front, low=low, high=high)
    assert scaled == pytest.approx(np.array([[0, 0, 0], [1, 0, 1], [0.5, 0, 0.5]]))


def test_the_true_front_has_ratio_one_and_a_part_less() -> None:
    front = np.array([[1.0, 100.0, 5.0], [10.0, 10.0, 5.0], [100.0, 1.0, 5.0]])
    assert hypervolume_ratio(front, front) == 1.0
    # Twice a single optimum in one objective: ln 2 of 1.1 is lost there.
    single = np.array([[3.0, 5.0, 7.0]])
    assert hypervolume_ratio(single * [2, 1, 1], single) == pytest.approx((1.1 - np.log(2)) / 1.1)
    # Without the middle: two slabs instead of three steps.
    whole = 1.1 * 0.1 + 0.6 * 0.5 + 0.1 * 0.5
    assert hypervolume_ratio(front[[0, 2]], front) == pytest.approx((2 * 1.1 * 0.1 - 0.01) / whole)


def test_a_spread_takes_the_extremes_then_the_farthest() -> None:
    x = np.linspace(0, 1, 101)
    front = np.exp(np.stack([x, 1 - x, np.zeros(101)], axis=1))
    assert spread(front, 5, first=50)[:3] == [50, 0, 100]
    assert sorted(spread(front, 5, first=50)) == [0, 25, 50, 75, 100]
    assert spread(front[:1], 5, first=0) == [0]
