"""Training the predictor that ships: the same data give the same bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foundry.engines.budsim.artifact import LEVELS, SHIPPED, TAILS, Artifact, Target
from foundry.engines.budsim.curves import tail_matrix
from foundry.engines.budsim.fitting.coverage import coverage
from foundry.engines.budsim.fitting.rows import digests, pilot_rows
from foundry.engines.budsim.fitting.site import Site, SiteRow, joined, site_of, site_scores
from foundry.engines.budsim.fitting.splits import SPLITS, STRICT_SPLITS
from foundry.engines.budsim.fitting.studies import serving_studies
from foundry.engines.budsim.fitting.study import Outcome, Study, judge, mdape, trained
from foundry.engines.budsim.novelty import Seen
from foundry.engines.budsim.prediction import Novelty

if TYPE_CHECKING:
    from xgboost import Booster

# Which split imitates which kind of novelty.
IMITATES: Mapping[Novelty, str] = {
    "seen family": "family",
    "new GPU and engine pair": "GPU and engine pair",
    "new model": "model",
    "new GPU": "GPU",
    "new engine": "engine",
}
# Deals of the families into folds that choose a blend; the score of one deal is noisy.
SEEDS = (0, 1, 2)
ATTRIBUTIONS = (
    "InferenceX measurements as packaged in aiconfigurator-core 0.12.0, NVIDIA, Apache-2.0",
    "LLM-Pilot performance characterization (arXiv:2410.02425), IBM, CDLA-Permissive-2.0",
)
_TAIL_BOOSTING = {
    "max_depth": 3,
    "eta": 0.1,
    "tree_method": "hist",
    "nthread": 1,
    "seed": 0,
    "min_child_weight": 5,
}
_TAIL_ROUNDS = 60


def fit(
    data: Path,
    out: Path,
    version: str = SHIPPED,
    tell: Callable[[str], None] = lambda line: None,
    *,
    outcomes: Sequence[SiteRow] = (),
) -> Artifact:
    """Cross-validate, choose blends, train on everything, and write the folder.

    Args:
        data: where the benchmark files are.
        out: folder of the new version; it may exist.
        tell: hears of each split as it is done.
        outcomes: windows of this site; the card's `site_cv` then says what they gain.

    Raises:
        InvalidRequest: a file is missing.
    """
    studies: tuple[Study, ...] = serving_studies(data)
    site = site_of(outcomes, studies[0].rows) if outcomes else None
    if site is not None:
        studies = tuple(replace(study, extra=site.extra(study)) for study in studies)
    judged = {study.name: _judged(study, tell) for study in studies}
    targets = {study.name: _target(study, judged[study.name]) for study in studies}
    points = studies[0].rows.points
    artifact = Artifact(
        version=version,
        targets=targets,
        tails=_tails(data),
        seen=Seen.of(points if site is None else joined(points, site.rows.points)),
        cv={
            name: {split: round(found.scores[found.best], 2) for split, found in splits.items()}
            for name, splits in judged.items()
        },
        card=_card(data, judged) | _site_card(site, studies, targets),
    )
    artifact.save(out)
    return artifact


def _site_card(
    site: Site | None, studies: Sequence[Study], targets: Mapping[str, Target]
) -> dict[str, object]:
    if site is None:
        return {}
    blends = {name: target.blends for name, target in targets.items()}
    return {"site_windows": len(site.rows), "site_cv": site_scores(site, studies, blends)}


def _judged(study: Study, tell: Callable[[str], None]) -> dict[str, Outcome]:
    found = {}
    for split in (*SPLITS, *STRICT_SPLITS):
        seeds = SEEDS if split.startswith("family") else SEEDS[:1]
        found[split] = judge(study, split, seeds)
        best = found[split].best
        tell(f"{study.name}, {split}: {found[split].scores[best]:.1f} % ({best})")
    return found


def _target(study: Study, judged: Mapping[str, Outcome]) -> Target:
    by_novelty = {novelty: judged[split] for novelty, split in IMITATES.items()}
    needed = {name for found in by_novelty.values() for name in study.blends[found.best]}
    members = [one for one in study.members if one.name in needed or one.features is None]
    everything = np.ones(len(study.rows), dtype=bool)
    return Target(
        trained(replace(study, members=members), everything),
        {novelty: dict(study.blends[found.best]) for novelty, found in by_novelty.items()},
        {novelty: _quantiles(found.residuals) for novelty, found in by_novelty.items()},
        {novelty: _quantiles(found.prior_residuals) for novelty, found in by_novelty.items()},
    )


def _quantiles(residuals: np.ndarray) -> list[float]:
    """|log error| at LEVELS."""
    found = np.quantile(np.abs(residuals), LEVELS, method="higher")
    return [round(float(value), 6) for value in found]


def _tails(data: Path) -> dict[str, "Booster"]:
    """Ratios of percentiles: only LLM-Pilot measured any."""
    import xgboost

    rows = pilot_rows(data)
    table = tail_matrix(rows.points, np.zeros(len(rows)))
    median = rows.targets["ttft_ms"]
    ratios = (rows.targets["ttft_mean_ms"] / median, rows.targets["ttft_p95_ms"] / median)
    found = {}
    for name, ratio in zip(TAILS, ratios, strict=True):
        labels = np.round(np.log(np.maximum(ratio, 1.0)), 6)
        matrix = xgboost.DMatrix(np.round(table, 6), labels)
        found[name] = xgboost.train(dict(_TAIL_BOOSTING), matrix, _TAIL_ROUNDS)
    return found


def _card(data: Path, judged: Mapping[str, Mapping[str, Outcome]]) -> dict[str, object]:
    return {
        "blends": {
            name: {split: found.best for split, found in splits.items()}
            for name, splits in judged.items()
        },
        "scores": {
            name: {
                split: {blend: round(score, 2) for blend, score in found.scores.items()}
                for split, found in splits.items()
            }
            for name, splits in judged.items()
        },
        "prior": {
            name: {split: round(mdape(found.prior_residuals), 2) for split, found in splits.items()}
            for name, splits in judged.items()
        },
        "coverage_90": {
            name: {
                split: {key: round(value, 3) for key, value in coverage(found).items()}
                for split, found in splits.items()
            }
            for name, splits in judged.items()
        },
        "note": "MdAPE in %, rows left out by group; the random split flatters. Blends were chosen "
        "on the splits that they are scored on.",
        "data": digests(data),
        "attributions": list(ATTRIBUTIONS),
    }
