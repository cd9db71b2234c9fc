"""Ways to leave measurements out: each imitates a kind of question that deployments will ask."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from foundry.engines.budsim.fitting.rows import Labels, Rows

Mask = NDArray[np.bool_]

# Groups dealt into folds; the other splits leave one group out at a time.
_FOLDS = 5
_DEALT = ("random", "family and tp", "family")
SPLITS = (*_DEALT, "GPU and engine pair", "engine", "GPU", "model")
# Stricter: models that share an architecture under two names leave together.
STRICT_SPLITS = ("family by architecture", "model by architecture")


def labels(rows: Rows, split: str) -> Labels:
    """The group of each row, (N,). No configuration is in two groups."""
    shape, family = rows.architecture, (rows.model, rows.gpu, rows.engine)
    parts: Mapping[str, tuple[Labels, ...]] = {
        "random": (rows.configuration,),
        "family and tp": (*family, rows.points.tp.astype(int).astype(str)),
        "family": family,
        "GPU and engine pair": (rows.gpu, rows.engine),
        "engine": (rows.engine,),
        "GPU": (rows.gpu,),
        "model": (rows.model,),
        "family by architecture": (shape, rows.gpu, rows.engine),
        "model by architecture": (shape,),
    }
    return np.asarray([" | ".join(group) for group in zip(*parts[split], strict=True)])


def folds(rows: Rows, split: str, seed: int = 0) -> Iterator[Mask]:
    """Masks of the rows left out, one at a time; together they cover every row once."""
    groups = labels(rows, split)
    names, member = np.unique(groups, return_inverse=True)
    if split.startswith(_DEALT) and len(names) > _FOLDS:
        order = np.random.default_rng(seed).permutation(len(names))
        member = (np.argsort(order) % _FOLDS)[member]
    for fold in np.unique(member):
        yield member == fold
