"""What Ray does to a cleaning task, and what becomes of it."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import ray
from ray.exceptions import NodeDiedError, RayError

from foundry.errors import Unavailable
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.ray_nodes import RayNodes


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Tasks that were cancelled."""
    tasks: list[object] = []
    monkeypatch.setattr(ray, "cancel", tasks.append)
    return tasks


def nodes_with(task: Any, monkeypatch: pytest.MonkeyPatch) -> RayNodes:
    monkeypatch.setattr(RayNodes, "_start_cleaning", lambda self, node, active: task)
    return RayNodes(RayCalls(), Path("/home"), Path("/cache"), 1, deadline_s=0.01)


async def test_a_frozen_nodes_task_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, cancelled: list[object]
) -> None:
    never = asyncio.get_running_loop().create_future()
    nodes = nodes_with(never, monkeypatch)
    with pytest.raises(Unavailable, match=r"did not answer within 0\.01 s"):
        await nodes.clean("frozen", ())
    assert cancelled == [never]


@pytest.mark.parametrize("fault", [NodeDiedError("gone"), RayError("oops")])
async def test_a_lost_node_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, cancelled: list[object], fault: RayError
) -> None:
    lost = asyncio.get_running_loop().create_future()
    lost.set_exception(fault)
    with pytest.raises(Unavailable, match=type(fault).__name__):
        await nodes_with(lost, monkeypatch).clean("lost", ())
    assert cancelled == []


async def test_a_task_runs_on_its_node_or_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node's worker would remove what is in use there."""
    said: list[dict[str, Any]] = []
    sent: list[tuple[object, ...]] = []

    class Task:
        @staticmethod
        async def remote(*arguments: object) -> list[str]:
            sent.append(arguments)
            return ["gone"]

    def remote(**options: Any) -> Any:
        said.append(options)
        return lambda function: Task

    monkeypatch.setattr(ray, "remote", remote)
    nodes = RayNodes(RayCalls(), Path("/home"), Path("/cache"), 7)
    assert await nodes.clean("ab" * 28, [UUID(int=1)]) == ["gone"]
    (options,) = said
    strategy = options.pop("scheduling_strategy")
    assert (strategy.node_id, strategy.soft) == ("ab" * 28, False)
    assert options == {"num_cpus": 0, "max_retries": 0}
    assert sent == [(Path("/home"), Path("/cache"), {UUID(int=1)}, 7)]


async def test_only_living_nodes_are_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False}]
    monkeypatch.setattr(ray, "nodes", lambda: seen)
    assert await nodes_with(None, monkeypatch).list_nodes() == ["a"]
