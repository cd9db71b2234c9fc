"""This Ray cluster as the rules of engines see it."""

from typing import Any

import ray
from ray._private.state import available_resources_per_node

from foundry.execution.workers.live_cluster import accelerators
from foundry.serving.engine.hardware import Hardware, Node
from foundry.supervisor.ray_calls import RayCalls

_GB = 1e9


class RayHardware:
    """Implements `LiveHardware`."""

    def __init__(self, calls: RayCalls) -> None:
        self._calls = calls

    async def read_hardware(self) -> Hardware:
        """Raises Unavailable."""
        return await self._calls.run(_read)


def _read() -> Hardware:
    free = available_resources_per_node()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total: dict[str, float] = {}
    for node in nodes:
        total |= node["Resources"]
    return Hardware(
        nodes=tuple(_node(node["Resources"]) for node in nodes),
        free=tuple(_node(free.get(node["NodeID"], {})) for node in nodes),
        accelerators=accelerators(total),
    )


def _node(resources: dict[str, Any]) -> Node:
    return Node(
        cpus=float(resources.get("CPU", 0.0)),
        memory_gb=float(resources.get("memory", 0.0)) / _GB,
        gpus=float(resources.get("GPU", 0.0)),
    )
