"""The garbage collector's share of the supervisor: the object store, and every node."""

import asyncio
import logging
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry.catalog.registry.collecting import collect_blobs
from foundry.config import Settings
from foundry.execution.jobs.retention import list_active_ids
from foundry.execution.workers.collecting import JobCollector, clean_node
from foundry.infra.database import Database
from foundry.infra.wiring import cache_dir, open_objects
from foundry.supervisor.loop import Chore
from foundry.supervisor.ray_calls import RayCalls

_PERIOD_S = 300.0
_NODE_DEADLINE_S = 120.0
# One node after the other: thirty that freeze at once are still got through.
_NODES_DEADLINE_S = 3600.0

log = logging.getLogger(__name__)


def collecting_chores(settings: Settings, database: Database, calls: RayCalls) -> list[Chore]:
    objects = open_objects(settings)
    jobs = JobCollector(database, objects, settings.retention.resumable_days * 86_400.0)

    async def clean_nodes() -> None:
        active = await list_active_ids(database)
        limit = int(settings.retention.cache_gb * 2**30)
        arguments = (settings.home, cache_dir(settings), active, limit)
        for node in await calls.run(_living_nodes):
            affinity = NodeAffinitySchedulingStrategy(node, soft=False)
            task: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=affinity)(
                clean_node
            )
            running = task.remote(*arguments)
            try:
                async with asyncio.timeout(_NODE_DEADLINE_S):
                    removed = await running
            except (TimeoutError, RayError):
                # A frozen or lost node keeps no other from being cleaned, nor does work pile up.
                log.exception("node %s was not cleaned; the next turn tries again", node)
                ray.cancel(running)
                continue
            if removed:
                log.info("removed from node %s: %s", node, ", ".join(removed))

    async def collect_objects() -> None:
        await collect_blobs(database, objects)

    return [
        Chore("job leftovers", jobs.collect, _PERIOD_S),
        Chore("blobs", collect_objects, _PERIOD_S),
        Chore("node caches", clean_nodes, _PERIOD_S, _NODES_DEADLINE_S),
    ]


def _living_nodes() -> list[str]:
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]
