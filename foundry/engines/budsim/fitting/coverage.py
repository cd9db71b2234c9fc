"""Whether intervals hold for groups that calibrated nothing of them."""

import numpy as np

from foundry.engines.budsim.fitting.study import Outcome


def coverage(outcome: Outcome, confidence: float = 0.9) -> dict[str, float]:
    """Share of measurements inside their interval, when the group's own errors set no width.

    For each group the width is the quantile of |log error| over all other groups, whose
    predictions were out of sample as well.

    Returns:
        `mean` over rows, and `worst` and `median` over groups; NaN with a single group.
    """
    errors, groups = np.abs(outcome.residuals), outcome.groups
    inside = np.full(len(errors), np.nan)
    names = np.unique(groups)
    for name in names if len(names) > 1 else ():
        own = groups == name
        inside[own] = errors[own] <= np.quantile(errors[~own], confidence, method="higher")
    shares = [float(inside[groups == name].mean()) for name in names]
    return {
        "mean": float(inside.mean()),
        "median": float(np.median(shares)),
        "worst": float(min(shares)),
    }
