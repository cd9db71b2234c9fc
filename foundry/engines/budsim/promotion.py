"""When a model is fitted again, and when the new one replaces the old."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foundry.engines.budsim.loop import DAY_S, Window

Scores = Mapping[str, float]

REFIT_WINDOWS = 200
REFIT_S = 7 * DAY_S
MIN_IMPROVEMENT = 0.02
MAX_WORSENING = 0.05


@dataclass(frozen=True, slots=True)
class Decision:
    """Attributes:
    reasons: against a promotion; empty when `promote`.
    """

    promote: bool
    reasons: tuple[str, ...]


def promotable(
    incumbent_cv: Mapping[str, float],
    candidate_cv: Mapping[str, float],
    site_cv: Mapping[str, tuple[float, float]],
) -> Decision:
    """Whether a candidate may replace the model in use; otherwise it stays a shadow.

    Grouped cross-validation must improve by 2 % (geometric mean over the splits), no split may
    worsen by more than 5 %, and this site's own windows must improve.

    Args:
        incumbent_cv, candidate_cv: split → error of the grouped cross-validation, > 0.
        site_cv: deployment → errors of the incumbent and of the candidate on its windows.
    """
    reasons: list[str] = []
    ratios = _ratios(incumbent_cv, candidate_cv, reasons)
    if not ratios:
        reasons.append("no split was measured for both")
    else:
        mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
        if mean > 1 - MIN_IMPROVEMENT:
            reasons.append(f"cross-validation improves by {1 - mean:.1%}; 2 % is needed")
    reasons += [
        f"{split} worsens by {ratio - 1:.1%}; 5 % is allowed"
        for split, ratio in ratios.items()
        if ratio > 1 + MAX_WORSENING
    ]
    reasons += _site(site_cv)
    return Decision(not reasons, tuple(reasons))


def splits(cv: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of an artifact's table by their paths: `target/split` → error."""
    found: dict[str, float] = {}
    for name, value in cv.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= splits(value, f"{path}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = float(value)
    return found


def _ratios(
    incumbent: Mapping[str, float], candidate: Mapping[str, float], reasons: list[str]
) -> dict[str, float]:
    ratios: dict[str, float] = {}
    for split, before in sorted(incumbent.items()):
        after = candidate.get(split, math.nan)
        if _positive(before) and _positive(after):
            ratios[split] = after / before
        else:
            reasons.append(f"{split} was not measured for both")
    return ratios


def _site(site_cv: Mapping[str, tuple[float, float]]) -> list[str]:
    pairs = [pair for pair in site_cv.values() if all(map(_positive, pair))]
    if not pairs:
        return ["no deployment of this site has measured windows"]
    mean = math.exp(sum(math.log(after / before) for before, after in pairs) / len(pairs))
    if mean >= 1:
        return [f"this site's own windows do not improve ({mean - 1:+.1%})"]
    return []


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def refit_due(windows: Sequence[Window], last_fit: float, now: float) -> bool:
    """200 windows since the last fit, or a week and at least one. Times in Unix seconds."""
    new = sum(window.started_at > last_fit for window in windows)
    return new >= REFIT_WINDOWS or (new > 0 and now - last_fit >= REFIT_S)
