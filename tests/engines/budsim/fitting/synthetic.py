"""Measurements that were made up, with a known law behind them."""

import numpy as np

from foundry.engines.budsim.artifact import load
from foundry.engines.budsim.fitting.rows import Rows
from foundry.engines.budsim.fitting.studies import tpot_study
from foundry.engines.budsim.fitting.study import Study
from tests.engines.budsim.serving_cases import random_points


def synthetic_rows(count: int, seed: int = 0) -> Rows:
    """Random points whose TPOT is the calibrated prior's, times noise of 10 %."""
    points = random_points(count, seed)
    rng = np.random.default_rng(seed + 1)
    law = load().targets["tpot"].ensemble.calibrations["step"].log_seconds(points)
    shapes = [f"{a:g} {b:g}" for a, b in zip(points.hidden, points.layers, strict=True)]
    return Rows(
        points,
        model=np.asarray(shapes),
        gpu=rng.choice(["one", "two", "three"], count),
        engine=points.engine.astype(int).astype(str),
        configuration=np.asarray([f"c{index}" for index in range(count)]),
        targets={"tpot_ms": np.exp(law + rng.normal(0, 0.1, count)) * 1e3},
    )


def small_study(rows: Rows) -> Study:
    """TPOT by the prior and two regressors."""
    study = tpot_study(rows)
    members = [one for one in study.members if one.features in (None, "lean")]
    kept = {one.name for one in members}
    blends = {name: blend for name, blend in study.blends.items() if set(blend) <= kept}
    return Study(study.name, rows, study.log_target, members, blends)
