"""How one configuration stands to the targets, without a search."""

from foundry.engines.budsim.prediction import Predictions
from foundry.engines.budsim.request import Targets, Workload
from foundry.engines.budsim.search.recommendation import Target
from foundry.engines.budsim.search.relaxation import slack
from foundry.engines.budsim.search.targets import judge, limits


def judge_first(
    predictions: Predictions, targets: Targets, workload: Workload
) -> tuple[tuple[Target, ...], bool]:
    """The targets of the first of some predictions, and whether it is overloaded."""
    found = judge(predictions, targets, workload)
    bounds = {name: float(column[0]) for name, column in found.bounds.items()}
    judged = tuple(
        Target(
            name=name,
            percentile=targets.percentile,
            limit=limit,
            bound=bounds[name],
            slack=slack(name, limit, bounds[name]),
            met=slack(name, limit, bounds[name]) >= 0.0,
        )
        for name, limit in limits(targets).items()
    )
    return judged, bool(found.unstable[0] > 0.0)
