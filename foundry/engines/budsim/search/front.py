"""Pareto fronts of three minimised objectives, and the volume that they dominate."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np

from foundry.engines.budsim.configuration import Floats, Ints

# Where the volume is measured from: a tenth beyond the worst corner of the compared fronts.
REFERENCE = 1.1


class _Staircase:
    """Lower left staircase of points in the plane: x rises, y falls."""

    def __init__(self) -> None:
        self.x: list[float] = []
        self.y: list[float] = []

    def covers(self, x: float, y: float) -> bool:
        """Some point is at most (x, y) in both coordinates."""
        at = bisect_right(self.x, x) - 1
        return at >= 0 and self.y[at] <= y

    def insert(self, x: float, y: float) -> float:
        """Adds an uncovered point; the area that it adds below REFERENCE."""
        start = bisect_left(self.x, x)
        end = start
        while end < len(self.y) and self.y[end] >= y:
            end += 1
        ceiling = self.y[start - 1] if start else REFERENCE
        area, left = 0.0, x
        for right, below in zip(self.x[start:end], self.y[start:end], strict=True):
            area += (right - left) * (ceiling - y)
            left, ceiling = right, below
        limit = self.x[end] if end < len(self.x) else REFERENCE
        area += (limit - left) * (ceiling - y)
        self.x[start:end] = [x]
        self.y[start:end] = [y]
        return area


def _sweep(points: Floats) -> Iterator[tuple[int, float]]:
    """Non-dominated rows of (N, 3) from the lowest third coordinate up, with the area in the
    plane of the first two that each adds. Of equal points the first row counts."""
    order = np.lexsort((np.arange(len(points)), points[:, 1], points[:, 0], points[:, 2]))
    stairs = _Staircase()
    for row, (x, y, _) in zip(order.tolist(), points[order].tolist(), strict=True):
        if not stairs.covers(x, y):
            yield row, stairs.insert(x, y)


def non_dominated(objectives: Floats) -> Ints:
    """Rows of the Pareto front, ascending; of equal points the first row.

    Args:
        objectives: (N, 3), minimised, finite.
    """
    if not len(objectives):
        return np.zeros(0, dtype=np.int64)
    return np.sort(np.asarray([row for row, _ in _sweep(objectives)], dtype=np.int64))


def hypervolume(front: Floats) -> float:
    """Volume between the front and the point REFERENCE in every objective (Zitzler & Thiele 1999).

    Args:
        front: (N, 3), minimised and normalised; points beyond REFERENCE add nothing.
    """
    inside = front[(front < REFERENCE).all(axis=1)]
    return sum(area * (REFERENCE - float(inside[row, 2])) for row, area in _sweep(inside))


def normalised(front: Floats, *, low: Floats, high: Floats) -> Floats:
    """Logarithms scaled so that `low` is 0 and `high` is 1; unscaled where these are equal."""
    span = np.log(high) - np.log(low)
    scale: Floats = np.where(span > 0, span, 1.0)
    scaled: Floats = (np.log(front) - np.log(low)) / scale
    return scaled


def hypervolume_ratio(front: Floats, reference: Floats) -> float:
    """Volume of a front over that of the true one, in log objectives normalised to the true one.

    Args:
        front, reference: (N, 3), positive and minimised.
    """
    low, high = reference.min(axis=0), reference.max(axis=0)
    true = hypervolume(normalised(reference, low=low, high=high))
    return hypervolume(normalised(front, low=low, high=high)) / true


def spread(front: Floats, count: int, *, first: int) -> list[int]:
    """Up to `count` rows that cover the front: the best of each objective, then whichever row is
    farthest from those taken, in normalised log objectives. `first` is taken before all."""
    points = normalised(front, low=front.min(axis=0), high=front.max(axis=0))
    taken = list(dict.fromkeys([first, *np.argmin(points, axis=0).tolist()]))[:count]
    distance = np.min([((points - points[row]) ** 2).sum(axis=1) for row in taken], axis=0)
    while len(taken) < min(count, len(points)):
        row = int(np.argmax(distance))
        if distance[row] <= 0:
            break
        taken.append(row)
        distance = np.minimum(distance, ((points - points[row]) ** 2).sum(axis=1))
    return taken
