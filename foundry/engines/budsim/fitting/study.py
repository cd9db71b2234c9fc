"""Predictions of rows that the predictor has not seen, and how far off they are."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foundry.engines.budsim.calibration import Calibration, fit
from foundry.engines.budsim.ensemble import Ensemble, Member, feature_matrix
from foundry.engines.budsim.fitting.rows import Rows
from foundry.engines.budsim.fitting.splits import Mask, folds, labels
from foundry.engines.budsim.physics import prior
from foundry.engines.budsim.points import Column

if TYPE_CHECKING:
    from xgboost import Booster

Blend = Mapping[str, float]

# One thread and a fixed seed: the same bytes on every machine.
_BOOSTING = {
    "eta": 0.1,
    "subsample": 0.8,
    "colsample_bynode": 0.5,
    "min_child_weight": 2,
    "reg_lambda": 2.0,
    "tree_method": "hist",
    "max_bin": 128,
    "nthread": 1,
    "seed": 0,
}
# Scores this close are noise, and members cost space and time.
_NEARLY = 1.03
# Folds at once: training holds no lock of Python.
_WORKERS = 2


@dataclass(frozen=True)
class Extra:
    """M weighted rows that regressors learn from as well; they choose and calibrate nothing."""

    rows: Rows
    log_target: Column
    weight: Column


@dataclass(frozen=True, slots=True)
class Trees:
    """Size of the regressors: few rows carry few splits.

    Attributes:
        gamma: what a split must gain: deep trees become a third smaller and no less accurate.
    """

    depth: int
    rounds: int
    gamma: float = 0.0


MANY_ROWS = Trees(depth=7, rounds=120, gamma=0.003)
FEW_ROWS = Trees(depth=3, rounds=300)


@dataclass(frozen=True)
class Study:
    """One target of one source.

    Attributes:
        log_target: (N,); of seconds, or of tokens/s.
        members: that compete.
        blends: of members, that compete, by name.
            `prior` is one of them.
        trees: size of the regressors.
        extra: what a site measured.
    """

    name: str
    rows: Rows
    log_target: Column
    members: Sequence[Member]
    blends: Mapping[str, Blend]
    trees: Trees = MANY_ROWS
    extra: Extra | None = None


def mdape(log_error: Column) -> float:
    """Median absolute percentage error of predictions, %."""
    return float(100.0 * np.median(np.abs(np.expm1(log_error))))


def trained(study: Study, kept: Mask, extra_kept: Mask | None = None) -> Ensemble:
    """All members of a study, fitted on some of its rows and of its extra rows (None: all)."""
    rows, target = study.rows.take(kept), study.log_target[kept]
    kinds = sorted({member.base for member in study.members})
    calibrations = {kind: fit(kind, rows.points, target) for kind in kinds}
    terms = prior(rows.points)
    boosters = {}
    for member in study.members:
        if member.features is not None:
            base = calibrations[member.base].log_seconds(rows.points, terms)
            table = feature_matrix(member.features, rows.points, terms, base)
            measured = _Measured(table, target, base, None)
            if study.extra is not None:
                calibration = calibrations[member.base]
                measured = _with_extra(measured, member, calibration, study.extra, extra_kept)
            boosters[member.name] = _boosted(member, measured, study.trees)
    return Ensemble(calibrations, {member.name: member for member in study.members}, boosters)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a regressor learns from; `weight` None: every row counts the same."""

    table: np.ndarray
    target: Column
    base: Column
    weight: Column | None


def _with_extra(
    measured: _Measured, member: Member, calibration: Calibration, extra: Extra, kept: Mask | None
) -> _Measured:
    chosen = np.ones(len(extra.rows), dtype=bool) if kept is None else kept
    points = extra.rows.points.take(chosen)
    terms = prior(points)
    base = calibration.log_seconds(points, terms)
    assert member.features is not None
    return _Measured(
        np.concatenate([measured.table, feature_matrix(member.features, points, terms, base)]),
        np.concatenate([measured.target, extra.log_target[chosen]]),
        np.concatenate([measured.base, base]),
        np.concatenate([np.ones(len(measured.target)), extra.weight[chosen]]),
    )


def _boosted(member: Member, measured: _Measured, trees: Trees) -> "Booster":
    import xgboost

    table, target, base = measured.table, measured.target, measured.base
    wanted = target - base if member.residual else target
    weights = 1.0 / (1.0 + (target - base) ** 2) if member.robust else None
    if measured.weight is not None:
        weights = measured.weight * (1.0 if weights is None else weights)
    # Rounded, so that the last bits of a logarithm on another machine move no split.
    data = xgboost.DMatrix(np.round(table, 6), np.round(wanted, 6), weight=weights)
    sizes = {"max_depth": trees.depth, "gamma": trees.gamma}
    return xgboost.train({**_BOOSTING, **sizes}, data, trees.rounds)


def out_of_fold(study: Study, split: str, seed: int = 0) -> dict[str, Column]:
    """Log predictions of every blend for rows left out, (N,) each."""
    terms = prior(study.rows.points)
    singles = {member.name: {member.name: 1.0} for member in study.members}
    found = {name: np.full(len(study.rows), np.nan) for name in singles}

    def one(left: Mask) -> tuple[Mask, dict[str, Column]]:
        ensemble = trained(study, ~left, _elsewhere(study, split, left))
        return left, {
            name: ensemble.predict(study.rows.points, terms, blend)[left]
            for name, blend in singles.items()
        }

    with ThreadPoolExecutor(_WORKERS) as pool:
        for left, predictions in pool.map(one, folds(study.rows, split, seed)):
            for name, values in predictions.items():
                found[name][left] = values
    return {
        name: np.sum([weight * found[member] for member, weight in blend.items()], axis=0)
        for name, blend in study.blends.items()
    }


def _elsewhere(study: Study, split: str, left: Mask) -> Mask | None:
    """Extra rows of groups that are not left out: what is left out stays unseen."""
    if study.extra is None:
        return None
    gone = np.unique(labels(study.rows, split)[left])
    return ~np.isin(labels(study.extra.rows, split), gone)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one split says.

    Attributes:
        scores: MdAPE by blend, %.
        best: of the blends that are nearly as good as the best, the one with fewest members.
        residuals: log(measured ÷ predicted) of the winner, (N,).
        prior_residuals: of the calibrated prior alone, (N,).
        groups: that were left out, (N,).
    """

    split: str
    scores: Mapping[str, float]
    best: str
    residuals: Column
    prior_residuals: Column
    groups: np.ndarray


def judge(study: Study, split: str, seeds: Iterable[int] = (0,)) -> Outcome:
    """Every blend on one split; over several seeds the scores are means."""
    rounds = [out_of_fold(study, split, seed) for seed in seeds]
    scores = {
        name: float(np.mean([mdape(found[name] - study.log_target) for found in rounds]))
        for name in study.blends
    }
    enough = _NEARLY * min(scores.values())
    best = min(
        (name for name, score in scores.items() if score <= enough),
        key=lambda name: (len(study.blends[name]), scores[name]),
    )
    return Outcome(
        split,
        scores,
        best,
        study.log_target - rounds[0][best],
        study.log_target - rounds[0]["prior"],
        labels(study.rows, split),
    )
