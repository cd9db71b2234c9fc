"""This Ray cluster as the rules of engines see it."""

from collections.abc import Mapping
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from foundry.engines.budsim.catalogue import Catalogue
from foundry.execution.workers.live_cluster import TYPE_PREFIX, map_accelerators
from foundry.serving.engine.hardware import Hardware, Node
from foundry.supervisor.ray_calls import RayCalls

_GB = 1e9


class RayHardware:
    """Implements `LiveHardware`."""

    def __init__(self, calls: RayCalls) -> None:
        self._calls = calls

    async def read_hardware(self) -> Hardware:
        """The nodes that live, with what is free on them. Raises Unavailable."""
        return await self._calls.run(_read)


def _read() -> Hardware:
    free = available_resources_per_node()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total: dict[str, float] = {}
    for node in nodes:
        total |= node["Resources"]
    known = map_accelerators(total)
    catalogue = Catalogue.shipped()
    return Hardware(
        nodes=tuple(_node(node["Resources"]) for node in nodes),
        free=tuple(_node(free.get(node["NodeID"], {})) for node in nodes),
        accelerators=known,
        accelerator_memory={kind: catalogue.gpu(kind).memory_gb for kind in known},
        without_bfloat16=frozenset(kind for kind in known if not catalogue.gpu(kind).flops("bf16")),
        unknown_accelerators=any(_is_unknown(node["Resources"], known) for node in nodes),
        host_gb=max((_host_gb(node["Resources"]) for node in nodes), default=None),
    )


def _is_unknown(resources: dict[str, Any], known: Mapping[str, str]) -> bool:
    types = {f"{TYPE_PREFIX}{name}" for name in known.values()}
    return resources.get("GPU", 0.0) >= 1 and not types & resources.keys()


def _host_gb(resources: dict[str, Any]) -> float:
    # Ray takes the room of its object store away from what it lends as memory.
    return float(resources.get("memory", 0.0) + resources.get("object_store_memory", 0.0)) / _GB


def _node(resources: dict[str, Any]) -> Node:
    return Node(
        cpus=float(resources.get("CPU", 0.0)),
        memory_gb=float(resources.get("memory", 0.0)) / _GB,
        gpus=float(resources.get("GPU", 0.0)),
    )
