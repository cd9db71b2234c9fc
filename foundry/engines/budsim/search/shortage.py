"""Islands where nothing fits: what is missing there, and which comes closest."""

from collections.abc import Sequence

import numpy as np

from foundry.engines.budsim.search.evaluation import Evaluator
from foundry.engines.budsim.search.genome import Space, priced
from foundry.engines.budsim.search.recommendation import Shortage
from foundry.engines.budsim.search.rules import broken, memories, shortage


def nearest_shortage(evaluator: Evaluator, spaces: Sequence[Space]) -> Shortage:
    """Of islands that all are empty: the least missing memory where only memory is short; else
    what stops the first one."""
    found = [_of(evaluator, space) for space in spaces]
    short = [one for one in found if one.missing_bytes > 0.0]
    return min(short, key=lambda one: one.missing_bytes) if short else found[0]


def notes(evaluator: Evaluator, spaces: Sequence[Space]) -> tuple[str, ...]:
    """Why empty islands are left out."""
    return tuple(
        f"{space.island.gpu} with {space.island.runtime} is left out: "
        f"{_of(evaluator, space).reason}"
        for space in spaces
        if space.empty
    )


def _of(evaluator: Evaluator, space: Space) -> Shortage:
    ground, gpu = evaluator.ground(), space.island.gpu
    groups = [group for group in evaluator.request.cluster.groups if group.gpu == gpu]
    if not priced(groups, evaluator.catalogue):
        return Shortage(gpu, "price", 0.0, f"{gpu} has no price; set price_per_gpu_hour")
    rows = space.draft()
    rules = broken(ground, rows)
    others = np.logical_or.reduce([rule.where for rule in rules if rule.field != "memory"])
    if others.all():
        rule = max(rules, key=lambda one: int(one.where.sum()))
        row = int(np.flatnonzero(rule.where)[0])
        return Shortage(gpu, rule.field, 0.0, rule.reason(row))
    longest, _ = memories(ground, rows)
    missing = [(shortage(longest, row)[1], row) for row in np.flatnonzero(~others).tolist()]
    least, row = min(missing)
    term = shortage(longest, row)[0]
    reason = (
        f"{gpu} lacks {least / 1e9:.1f} GB per accelerator for {term}, at tensor parallel "
        f"size {rows.tp[row]}, pipeline parallel size {rows.pp[row]}: take larger or more "
        "accelerators, a smaller weight format or a shorter max_model_len"
    )
    return Shortage(gpu, term, least, reason)
