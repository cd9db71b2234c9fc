"""What of a question the training data has not seen; told by shapes and datasheets, not names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foundry.engines.budsim.configuration import Bools, Ints
from foundry.engines.budsim.points import Column, Points
from foundry.engines.budsim.prediction import NOVELTIES, Novelty

# Two shapes or datasheets within 3 % of each other are one.
_TOLERANCE = 0.03
_MODEL = ("layers", "hidden", "heads", "kv_width", "parameters")
_GPU = ("memory", "bandwidth", "flops16")
# Outside these the regressors extrapolate.
_RANGED = ("tp", "pp", "batch", "input", "output", "parameters", "wb")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the training data holds.

    Attributes:
        models: shapes, rows of _MODEL.
        gpus: datasheets, rows of _GPU.
        pairs: (index into gpus, engine code) that were measured together.
        ranges: lowest and highest value of a column of `Points`.
    """

    models: Sequence[Sequence[float]]
    gpus: Sequence[Sequence[float]]
    pairs: frozenset[tuple[int, int]]
    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, points: Points) -> "Seen":
        gpus, gpu = np.unique(_rows(points, _GPU), axis=0, return_inverse=True)
        engine = points.engine.astype(int).tolist()
        return cls(
            np.unique(_rows(points, _MODEL), axis=0).tolist(),
            gpus.tolist(),
            frozenset(zip(gpu.ravel().tolist(), engine, strict=True)),
            {
                name: (float(getattr(points, name).min()), float(getattr(points, name).max()))
                for name in _RANGED
            },
        )

    def novelty(self, points: Points) -> Ints:
        """Index into NOVELTIES of each point, (N,): the hardest kind that applies."""
        model = _nearest(_rows(points, _MODEL), self.models)
        gpu = _nearest(_rows(points, _GPU), self.gpus)
        engine = points.engine.astype(np.int64)
        engines = {code for _, code in self.pairs}
        pair = np.asarray(
            [key in self.pairs for key in zip(gpu.tolist(), engine.tolist(), strict=True)]
        )
        known_engine = np.isin(engine, list(engines))
        order: list[tuple[Novelty, Bools]] = [
            ("new engine", ~known_engine),
            ("new GPU", gpu < 0),
            ("new model", model < 0),
            ("new GPU and engine pair", ~pair),
        ]
        codes = [NOVELTIES.index(name) for name, _ in order]
        return np.select([mask for _, mask in order], codes, NOVELTIES.index("seen family"))

    def outside(self, points: Points) -> Bools:
        """Whether a point lies outside what was measured, (N,)."""
        far = np.zeros(len(points), dtype=bool)
        for name, (low, high) in self.ranges.items():
            column: Column = getattr(points, name)
            far |= (column < low * (1 - _TOLERANCE)) | (column > high * (1 + _TOLERANCE))
        return far

    def to_dict(self) -> dict[str, object]:
        return {
            "models": [list(row) for row in self.models],
            "gpus": [list(row) for row in self.gpus],
            "pairs": sorted(map(list, self.pairs)),
            "ranges": {name: list(span) for name, span in self.ranges.items()},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, list[list[float]]]) -> "Seen":
        ranges: Mapping[str, tuple[float, float]] = document["ranges"]  # type: ignore[assignment]
        return cls(
            document["models"],
            document["gpus"],
            frozenset((int(gpu), int(engine)) for gpu, engine in document["pairs"]),
            {name: (low, high) for name, (low, high) in ranges.items()},
        )


def _rows(points: Points, names: Sequence[str]) -> np.ndarray:
    return np.column_stack([getattr(points, name) for name in names])


def _nearest(rows: np.ndarray, known: Sequence[Sequence[float]]) -> Ints:
    """Index of the known row within the tolerance of each row, -1 where there is none."""
    table = np.asarray(known)
    close = np.abs(rows[:, None, :] - table[None]) <= _TOLERANCE * np.maximum(table[None], 1e-9)
    every = close.all(axis=2)
    return np.where(every.any(axis=1), every.argmax(axis=1), -1)
