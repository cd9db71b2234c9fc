"""CPU nodes are measured at first use, on a real PostgreSQL."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foundry.engines.budsim.catalogue import Catalogue, Gpu
from foundry.engines.budsim.request import ClusterSpec, NodeGroup
from foundry.errors import Unavailable
from foundry.governance.identity.domain import Role
from foundry.infra.database import Database
from tests.control.client import Control, new_key, running_control
from tests.serving.recommendations.questions import LLAMA, WORKLOAD

pytestmark = pytest.mark.postgres
QUESTION = {
    "config": LLAMA | {"num_hidden_layers": 4, "hidden_size": 1024, "num_attention_heads": 8},
    "workload": WORKLOAD,
}


class CpuNode:
    """One node without accelerators, whose memory moves so many GB/s."""

    def __init__(self) -> None:
        self.bandwidth_gbps = 40.04
        self.probes = 0
        self.broken = False

    async def describe(self) -> ClusterSpec:
        return ClusterSpec((NodeGroup("cpu", 1),))

    async def probe_cpu(self) -> Gpu:
        self.probes += 1
        if self.broken:
            raise Unavailable("no node could be measured")
        return replace(
            Catalogue.shipped().gpu("cpu"), memory_gb=32, bandwidth_gbps=self.bandwidth_gbps
        )


@pytest.fixture
def node() -> CpuNode:
    return CpuNode()


@pytest.fixture
async def control(database: Database, tmp_path: Path, node: CpuNode) -> AsyncIterator[Control]:
    async with running_control(database, tmp_path / "objects", live=node) as running:
        yield running


async def recommended(control: Control) -> dict[str, Any]:
    answer = await control.client.post(
        "/budsim/recommendations", params={"wait": 30}, json=QUESTION
    )
    found: dict[str, Any] = answer.json()
    assert found["state"] == "DONE", found
    return found


async def catalogued(control: Control) -> dict[str, Any]:
    rows = (await control.client.get("/budsim/catalogue")).json()["data"]
    return next(row for row in rows if row["id"] == "cpu")


async def test_a_cpu_cluster_works_out_of_the_box(control: Control, node: CpuNode) -> None:
    assert not (await catalogued(control))["verified"]
    first = await recommended(control)
    assert first["result"]["choice"]["configuration"]["gpu"] == "cpu"
    assert "nominal" in first["result"]["notes"][-1]
    assert (await recommended(control))["id"] == first["id"]
    assert node.probes == 1
    found = await catalogued(control)
    assert (found["memory_gb"], found["bandwidth_gbps"], found["verified"]) == (32.0, 40.0, True)


async def test_a_new_measurement_asks_anew(control: Control, node: CpuNode) -> None:
    first = await recommended(control)
    node.bandwidth_gbps = 20.0
    answer = await control.client.post("/budsim/probe")
    assert answer.status_code == 200, answer.text
    assert answer.json()["measured"]["bandwidth_gbps"] == 20.0
    second = await recommended(control)
    assert second["id"] != first["id"]
    slower, faster = (
        row["result"]["choice"]["prediction"]["tpot_ms"]["point"] for row in (second, first)
    )
    assert slower > faster


async def test_a_node_that_cannot_be_measured_is_what_the_catalogue_says(
    control: Control, node: CpuNode
) -> None:
    node.broken = True
    found = await recommended(control)
    assert found["result"]["choice"] is not None
    assert (await control.client.post("/budsim/probe")).status_code == 503
    assert not (await catalogued(control))["verified"]


async def test_who_may_measure(control: Control) -> None:
    _, key = await new_key(control.database, control.principal, Role.MEMBER)
    headers = {"authorization": f"Bearer {key}"}
    assert (await control.client.post("/budsim/probe", headers=headers)).status_code == 403
