"""A fleet of Ray actors on a cluster of this module's own."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from foundry.execution.workers.diloco.fleet import Placement, run_fleet
from foundry.execution.workers.diloco.messages import FleetProgress
from tests.execution.workers.diloco.fleets import config, local
from tests.fakes.fleet import MemoryLog, TinySource, TinyWorkload

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class OneIsSlow(TinySource):
    """Whoever opens it first is far slower than the others."""

    first: Path = Path()

    def open(self) -> TinyWorkload:
        try:
            self.first.touch(exist_ok=False)
        except FileExistsError:
            return TinyWorkload(self.steps, self.pace_s)
        return TinyWorkload(self.steps, 25 * self.pace_s)


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


async def test_one_that_is_many_rounds_behind_brings_its_work_along(
    cluster: None, tmp_path: Path
) -> None:
    settings = config(2, 48, quorum=1, grace_s=0)
    source, log = OneIsSlow(48, 0.05, first=tmp_path / "first"), MemoryLog()
    result = await run_fleet(source, settings, log, placement=Placement(threads=1))
    assert result.batches == result.total_batches == 96
    assert {event.kind for event in result.events} == {"joined", "late", "healed"}
    assert any("with its own work" in event.detail for event in result.events)
    merged = [share for record in log.records for share in record.members if share.merged]
    assert sum(share.batches for share in merged) == 96
    assert len({share.member for share in merged if share.batches}) == 2
    assert [set(digests.values()) for digests in result.digests] == [
        {record.digest} for record in log.records
    ]
