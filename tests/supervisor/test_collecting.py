"""Nodes that are cleaned, frozen and lost."""

from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from foundry.errors import Unavailable
from foundry.infra.database import Database
from foundry.supervisor.collecting import NodeCollector
from tests.execution.jobs.test_leases import cancel, submit

pytestmark = pytest.mark.postgres


@dataclass
class FakeNodes:
    """Nodes by name, and what cleaning them raises."""

    faults: dict[str, Exception | None]
    cleaned: list[tuple[str, set[UUID]]] = field(default_factory=list)

    async def list_nodes(self) -> list[str]:
        return list(self.faults)

    async def clean(self, node: str, active: Collection[UUID]) -> list[str]:
        if fault := self.faults[node]:
            raise fault
        self.cleaned.append((node, set(active)))
        return ["something"]


async def test_a_frozen_node_keeps_no_other_from_being_cleaned(database: Database) -> None:
    running, ended = await submit(database, "running"), await submit(database, "ended")
    await cancel(database, ended.id)
    late = Unavailable("it did not answer within 120 s")
    nodes = FakeNodes({"a": None, "frozen": late, "z": None})
    collector = NodeCollector(database, nodes)
    with pytest.raises(Unavailable, match=r"nodes that were not cleaned: frozen$"):
        await collector.clean_nodes()
    assert nodes.cleaned == [("a", {running.id}), ("z", {running.id})]
    nodes.faults["frozen"] = None
    await collector.clean_nodes()
    assert [node for node, _ in nodes.cleaned] == ["a", "z", "a", "frozen", "z"]
