"""A fleet of Ray actors on a cluster of this module's own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from foundry.workers.diloco.fleet import Placement, run_fleet
from foundry.workers.diloco.messages import FleetProgress
from tests.fakes.fleet import MemoryLog, TinySource
from tests.workers.diloco.fleets import config, local

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


async def test_two_actors_equal_one_process(cluster: None) -> None:
    settings = config(2, 14)
    log = MemoryLog()
    result = await run_fleet(TinySource(14), settings, log, placement=Placement(threads=1))
    assert result.digest == local(settings, 14).replicas[0].state.digest()
    assert result.batches == 28
    assert {event.kind for event in result.events} == {"joined"}


async def test_a_killed_worker_is_replaced_and_healed(cluster: None, tmp_path: Path) -> None:
    settings = config(2, 80, quorum=1, grace_s=5)
    log, healed = MemoryLog(), tmp_path / "healed"
    killed: list[str] = []

    def kill_one(progress: FleetProgress) -> None:
        if progress.round >= 1 and not killed and len(progress.fleet) == 2:
            victim = progress.fleet[1]
            killed.append(str(victim["member"]))
            os.kill(int(str(victim["pid"])), signal.SIGKILL)
        if killed and progress.workers == 2 and progress.fleet[1]["member"] not in killed:
            healed.touch()

    result = await run_fleet(
        TinySource(80, pace_s=0.5, until=healed),
        settings,
        log,
        on_progress=kill_one,
        placement=Placement(threads=1),
    )
    assert result.batches == result.total_batches == 160
    kinds = [(event.kind, event.member) for event in result.events]
    assert ("died", killed[0]) in kinds
    assert ("healed", "w0002") in kinds
    assert [set(digests.values()) for digests in result.digests] == [
        {record.digest} for record in log.records
    ]
