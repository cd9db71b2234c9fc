"""Latency against concurrency of one deployment shape, on a grid.

A search asks for thousands of configurations that differ only in how many sequences share a
replica. The regressors see each deployment shape once, at powers of two; in between logs are
interpolated, and a running maximum makes latency grow with concurrency, as it does in nature.
"""

from dataclasses import dataclass, replace

import numpy as np

from foundry.engines.budsim.artifact import TAILS, Artifact
from foundry.engines.budsim.calibration import Calibration
from foundry.engines.budsim.configuration import Floats, Ints
from foundry.engines.budsim.features import lean, matrix
from foundry.engines.budsim.physics import prior
from foundry.engines.budsim.points import DEFAULT_CHUNK, Points
from foundry.engines.budsim.prediction import NOVELTIES
from foundry.engines.budsim.request import Method

GRID = 2.0 ** np.arange(12)
# What the tail regressors see, of the lean features: loads and lengths, no hardware.
TAIL_FEATURES = ("batch", "input", "output", "load")
# Logs of one curve, in this order.
FIELDS = ("tpot", "ttft", *TAILS)


@dataclass(frozen=True, slots=True)
class Curves:
    """K deployment shapes.

    Attributes:
        values: (K, grid, fields), logs: seconds of TPOT and mean TTFT, then ratios.
        novelty: (K,), index into NOVELTIES.
        outside: (K,), a shape beyond what was measured.
    """

    values: Floats
    novelty: Ints
    outside: np.ndarray

    def at(self, rows: Ints, batch: Floats) -> Floats:
        """Logs at a concurrency, (N, fields); `batch` is clipped to the grid."""
        position = np.clip(np.log2(np.maximum(batch, 1.0)), 0.0, len(GRID) - 1.0)
        below = np.minimum(position.astype(np.int64), len(GRID) - 2)
        share = (position - below)[:, None]
        found: Floats = (1.0 - share) * self.values[rows, below] + share * self.values[
            rows, below + 1
        ]
        return found


def tail_matrix(points: Points, base: Floats) -> Floats:
    """(N, TAIL_FEATURES)."""
    found = lean(points, prior(points), base)
    return matrix({name: found[name] for name in TAIL_FEATURES})


def curves(artifact: Artifact, points: Points, method: Method) -> Curves:
    """Curves of K shapes; the batch of the points is ignored."""
    count = len(points)
    repeated = points.take(np.repeat(np.arange(count), len(GRID)))
    asked = replace(repeated, batch=np.tile(GRID, count))
    on_grid = replace(asked, chunk=np.full(len(asked), DEFAULT_CHUNK), cached=np.zeros(len(asked)))
    novelty = artifact.seen.novelty(points)
    codes = np.repeat(novelty, len(GRID))
    columns = [_target(artifact, name, on_grid, codes, method) for name in ("tpot", "ttft")]
    # The regressors know one chunk size and no cached prefix; what others change is physics.
    for index, (name, kind) in enumerate((("tpot", "step"), ("ttft", "first_token"))):
        calibration = artifact.targets[name].ensemble.calibrations[kind]  # type: ignore[index]
        columns[index] += _effect(calibration, on_grid, asked)
    table = tail_matrix(on_grid, np.zeros(len(on_grid)))
    columns += [
        np.maximum(artifact.tails[name].inplace_predict(table).astype(np.float64), 0.0)
        for name in TAILS
    ]
    values = np.stack(columns, axis=1).reshape(count, len(GRID), len(FIELDS))
    # Shapes are inside or outside; at which loads they are asked for is not known here.
    inside = np.full(count, artifact.seen.ranges["batch"][0])
    outside = artifact.seen.outside(replace(points, batch=inside))
    return Curves(_growing(values), novelty, outside)


def _growing(values: Floats) -> Floats:
    """Curves of which TPOT and the mean, median and 95th percentile of TTFT grow with the load."""
    tpot, mean, above_median, tail = np.moveaxis(values, 2, 0)
    median = mean - above_median
    columns = (tpot, mean, median, median + tail)
    tpot, mean, median, slowest = (np.maximum.accumulate(one, axis=1) for one in columns)
    return np.stack([tpot, mean, mean - median, slowest - median], axis=2)


def _target(artifact: Artifact, name: str, points: Points, codes: Ints, method: Method) -> Floats:
    """Log seconds of one target, each kind of novelty by its own blend."""
    target = artifact.targets[name]
    found = np.empty(len(points))
    for code in np.unique(codes):
        rows = codes == code
        some = points.take(rows)
        blend = target.prior_blend if method == "PRIOR" else target.blends[NOVELTIES[code]]
        found[rows] = target.ensemble.predict(some, prior(some), blend)
    return found


def _effect(calibration: Calibration, known: Points, asked: Points) -> Floats:
    """Log of the factor between two kinds of points."""
    if np.array_equal(known.chunk, asked.chunk) and np.array_equal(known.cached, asked.cached):
        return np.zeros(len(known))
    effect: Floats = calibration.log_seconds(asked) - calibration.log_seconds(known)
    return effect
