"""A Ray cluster's nodes as the rules of engines see them."""

from typing import Any

import pytest
import ray

from foundry.serving.engine.hardware import Node
from foundry.supervisor import ray_hardware
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.ray_hardware import RayHardware

CPU_NODE = {"CPU": 8.0, "memory": 16e9, "object_store_memory": 4e9, "node:10.0.0.1": 1.0}
L40S = {"CPU": 32.0, "memory": 256e9, "object_store_memory": 64e9, "GPU": 4.0}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray lists; nothing is free but 2 CPUs on the node `a`."""
    listed: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "nodes", lambda: listed)
    free = {"a": {"CPU": 2.0, "memory": 3e9}}
    monkeypatch.setattr(ray_hardware, "available_resources_per_node", lambda: free)
    return listed


def node(name: str, resources: dict[str, float], *, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": resources}


async def test_living_nodes_in_cores_gigabytes_and_accelerators(
    nodes: list[dict[str, Any]],
) -> None:
    nodes += [node("a", CPU_NODE), node("gone", L40S, alive=False)]
    found = await RayHardware(RayCalls()).read_hardware()
    assert found.nodes == (Node(8.0, 16.0),)
    assert found.free == (Node(2.0, 3.0),)
    # The machine's, the room of Ray's object store included.
    assert found.host_gb == 20.0
    assert (found.accelerators, found.unknown_accelerators) == ({}, False)


async def test_accelerators_by_their_catalogue_id(nodes: list[dict[str, Any]]) -> None:
    nodes += [node("a", CPU_NODE), node("b", {**L40S, "accelerator_type:L40S": 1.0})]
    found = await RayHardware(RayCalls()).read_hardware()
    assert found.nodes == (Node(8.0, 16.0), Node(32.0, 256.0, 4.0))
    assert found.free[1] == Node(0.0, 0.0)
    assert found.accelerators == {"nvidia-l40s-48gb": "L40S"}
    assert found.accelerator_memory == {"nvidia-l40s-48gb": 48.0}
    assert (found.host_gb, found.unknown_accelerators) == (320.0, False)


async def test_accelerators_without_bfloat16(nodes: list[dict[str, Any]]) -> None:
    nodes += [
        node("old", {**L40S, "accelerator_type:T4": 1.0}),
        node("new", {**L40S, "accelerator_type:L40S": 1.0}),
    ]
    found = await RayHardware(RayCalls()).read_hardware()
    assert set(found.accelerators) == {"nvidia-t4-16gb", "nvidia-l40s-48gb"}
    assert found.without_bfloat16 == {"nvidia-t4-16gb"}


@pytest.mark.parametrize("kind", [{"GPU": 1.0}, {"accelerator_type:RTX-9": 1.0}])
async def test_accelerators_that_nobody_knows(
    nodes: list[dict[str, Any]], kind: dict[str, float]
) -> None:
    nodes.append(node("b", {**L40S, **kind}))
    found = await RayHardware(RayCalls()).read_hardware()
    assert (found.accelerators, found.unknown_accelerators) == ({}, True)


async def test_a_cluster_without_nodes_has_no_memory_to_speak_of(
    nodes: list[dict[str, Any]],
) -> None:
    found = await RayHardware(RayCalls()).read_hardware()
    assert (found.nodes, found.host_gb, found.unknown_accelerators) == ((), None, False)
