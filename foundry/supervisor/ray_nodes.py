"""Ray's nodes for the garbage collector: one task on each."""

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry.errors import Unavailable
from foundry.execution.workers.node_cleaning import clean_node
from foundry.supervisor.ray_calls import RayCalls

# Removing 100 GB of files takes seconds on a local disk, and a minute on a slow one.
NODE_DEADLINE_S = 120.0


class RayNodes:
    """Implements `NodeCleaner`.

    Args:
        home: `FOUNDRY_HOME`, the same on every node.
        limit_bytes: of a node's weight cache.
    """

    def __init__(
        self,
        calls: RayCalls,
        home: Path,
        cache: Path,
        limit_bytes: int,
        *,
        deadline_s: float = NODE_DEADLINE_S,
    ) -> None:
        self._calls = calls
        self._home = home
        self._cache = cache
        self._limit_bytes = limit_bytes
        self._deadline_s = deadline_s

    async def list_nodes(self) -> list[str]:
        return await self._calls.run(
            lambda: [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        )

    async def clean(self, node: str, active: Collection[UUID]) -> list[str]:
        running = await self._calls.run(lambda: self._start_cleaning(node, active))
        try:
            async with asyncio.timeout(self._deadline_s):
                removed: list[str] = await running
        except TimeoutError as error:
            await self._cancel_cleaning(running)
            raise Unavailable(f"it did not answer within {self._deadline_s:g} s") from error
        except RayError as error:
            raise Unavailable(f"Ray lost the task ({type(error).__name__})") from error
        return removed

    def _start_cleaning(self, node: str, active: Collection[UUID]) -> Any:
        affinity = NodeAffinitySchedulingStrategy(node, soft=False)
        task: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=affinity)(clean_node)
        return task.remote(self._home, self._cache, set(active), self._limit_bytes)

    async def _cancel_cleaning(self, running: Any) -> None:
        """So that turns on a frozen node do not pile up."""
        await self._calls.run(lambda: ray.cancel(running))
