"""Accelerators that nobody has priced."""

from dataclasses import replace

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.request import ClusterSpec, Request

# $ per accelerator and hour: only ratios of costs mean something under it.
NOMINAL_PRICE = 1.0
NOMINAL_NOTE = (
    f"no accelerator here has a price: each is ranked at a nominal ${NOMINAL_PRICE:g} per hour, so "
    "costs only compare; set real ones with `foundry budsim prices`"
)


def nominal(request: Request, catalogue: Catalogue) -> bool:
    """Whether costs are nominal: nothing has a price, and no target is about money."""
    targets = request.targets
    if targets.max_cost_per_hour is not None or targets.max_cost_per_mtok is not None:
        return False
    return not any(
        group.price_per_gpu_hour is not None
        or (group.gpu in catalogue and catalogue.gpu(group.gpu).price_per_hour is not None)
        for group in request.cluster.groups
    )


def with_prices(request: Request, catalogue: Catalogue) -> Request:
    """The request as it is, or with nominal prices where nothing has one."""
    if not nominal(request, catalogue):
        return request
    groups = tuple(
        replace(group, price_per_gpu_hour=NOMINAL_PRICE) for group in request.cluster.groups
    )
    return replace(request, cluster=ClusterSpec(groups))
