"""What goes wrong in a fleet, one fault at a time: no batch is lost, no bit differs."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from foundry.engines.training.diloco.config import DilocoConfig
from foundry.errors import EngineFailed, LeaseLost, Unavailable
from foundry.execution.fleets.domain import RoundRecord
from foundry.execution.workers.diloco.accounts import FleetResult
from foundry.execution.workers.diloco.checkpoints import Checkpoints
from foundry.execution.workers.diloco.coordinator import Coordinator
from foundry.execution.workers.diloco.snapshots import Snapshots
from foundry.infra.directory_store import DirectoryStore
from tests.execution.workers.diloco.fleets import config
from tests.fakes.fleet import FakeSpawner, MemoryLog

STREAMING: dict[str, object] = {"fragments": 2, "inner_steps": 8, "overlap": 2, "mixing": 0.5}
POINTS = (
    "in_train",
    "before_offer",
    "after_offer",
    "in_share",
    "in_reduce",
    "before_vote",
    "before_commit",
    "after_commit",
    "in_checkpoint",
)


def kinds(result: FleetResult) -> list[tuple[str, str]]:
    return [(event.kind, event.member) for event in result.events]


def check(result: FleetResult, log: MemoryLog) -> None:
    """Every batch is merged once, and all members agreed at every boundary."""
    assert result.batches == result.total_batches
    shares = [share for record in log.records for share in record.members]
    assert sum(share.batches for share in shares if share.merged) == result.total_batches
    assert [record.round for record in log.records] == list(range(1, len(log.records) + 1))
    for digests, record in zip(result.digests, log.records[-len(result.digests) :], strict=True):
        assert set(digests.values()) == {record.digest}


def dies_at(host: FakeSpawner, point: str, *, times: int = 3) -> Callable[..., Awaitable[None]]:
    """w0001 is killed when it reaches `point` for the nth time."""
    seen = 0

    async def on_point(name: str, reached: str) -> None:
        nonlocal seen
        if (name, reached) == ("w0001", point):
            seen += 1
            if seen == times:
                host.kill(name)
                await asyncio.Event().wait()

    return on_point


@pytest.mark.parametrize("outer", [{}, STREAMING], ids=["plain", "streaming"])
@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_any_point_loses_nothing(
    point: str, outer: dict[str, object], tmp_path: Path
) -> None:
    settings = config(3, 24, outer, grace_s=5, silence_s=60)
    snapshots = Snapshots(DirectoryStore(tmp_path), "fleet")
    host, log = FakeSpawner(settings, 24, snapshots), MemoryLog()
    host.on_point = dies_at(host, point)
    result = await Coordinator(settings, host, log, snapshots=snapshots).run()
    check(result, log)
    assert ("died", "w0001") in kinds(result)
    assert ("healed", "w0003") in kinds(result)


async def test_a_kill_while_healing_is_tried_again_with_the_next_one() -> None:
    settings = config(2, 24, silence_s=60)
    host, log = FakeSpawner(settings, 24), MemoryLog()
    first = dies_at(host, "in_train", times=6)

    async def on_point(name: str, reached: str) -> None:
        await first(name, reached)
        if (name, reached) == ("w0002", "in_heal"):
            host.kill(name)
            await asyncio.Event().wait()

    host.on_point = on_point
    result = await Coordinator(settings, host, log).run()
    check(result, log)
    assert ("died", "w0002") in kinds(result)
    assert ("healed", "w0003") in kinds(result)


async def test_a_damaged_payload_is_never_committed() -> None:
    settings = config(3, 24, grace_s=5)
    host, log = FakeSpawner(settings, 24), MemoryLog()

    async def on_point(name: str, reached: str) -> None:
        if name == "w0001" and reached == "after_offer" and len(log.records) == 1:
            host.damaging.add(name)

    host.on_point = on_point
    result = await Coordinator(settings, host, log).run()
    check(result, log)
    assert ("corrupt", "w0001") in kinds(result)
    assert ("healed", "w0003") in kinds(result)
    assert result.aborts >= 1


async def test_a_damaged_state_is_found_at_the_next_vote() -> None:
    settings = config(3, 24, grace_s=5)
    host, log = FakeSpawner(settings, 24), MemoryLog()

    async def on_point(name: str, reached: str) -> None:
        if name == "w0002" and reached == "before_offer" and len(log.records) == 2:
            host.members[name].replica.state.theta[0] += 1

    host.on_point = on_point
    result = await Coordinator(settings, host, log).run()
    check(result, log)
    assert ("corrupt", "w0002") in kinds(result)


async def test_late_work_is_merged_with_the_next_round() -> None:
    settings = config(3, 24, grace_s=0.05)
    host, log = FakeSpawner(settings, 24), MemoryLog()
    host.pace_s |= {"w0000": 0.02, "w0001": 0.02, "w0002": 0.05}
    result = await Coordinator(settings, host, log).run()
    check(result, log)
    assert ("late", "w0002") in kinds(result)
    assert not {"died", "silent", "stalled", "corrupt"} & {kind for kind, _ in kinds(result)}
    merged = {
        record.round: share.batches
        for record in log.records
        for share in record.members
        if share.member == "w0002" and share.merged
    }
    assert 1 not in merged and merged[2] >= 4


@pytest.mark.parametrize(("pace_s", "rebased"), [(0.2, False), (0.6, True)])
async def test_without_waiting_a_far_slower_member_is_merged_whenever_it_is_ready(
    pace_s: float, rebased: bool
) -> None:
    """Asynchronous: quorum 1, no grace. It adopts what it missed, or takes the whole state."""
    settings = config(2, 32, quorum=1, grace_s=0)
    host, log = FakeSpawner(settings, 32), MemoryLog()
    host.pace_s |= {"w0000": 0.05, "w0001": pace_s}
    result = await Coordinator(settings, host, log).run()
    check(result, log)
    merged = {
        record.round
        for record in log.records
        for share in record.members
        if share.member == "w0001" and share.batches
    }
    assert min(merged) < len(log.records), "it was merged on the way, not only at the end"
    assert {kind for kind, _ in kinds(result)} <= {"joined", "late", "healed"}
    behind = [event.detail for event in result.events if "with its own work" in event.detail]
    assert bool(behind) is rebased


async def test_a_member_that_is_cut_off_is_lost_and_replaced() -> None:
    settings = config(2, 40, silence_s=0.3)
    host, log = FakeSpawner(settings, 40), MemoryLog()

    async def on_point(name: str, reached: str) -> None:
        if name == "w0001" and reached == "in_reduce" and len(log.records) == 2:
            host.cut_off.add(name)

    host.on_point = on_point
    result = await Coordinator(settings, host, log).run()
    check(result, log)
    assert ("silent", "w0001") in kinds(result)
    assert ("healed", "w0002") in kinds(result)


async def test_a_member_that_makes_no_step_is_lost_and_replaced() -> None:
    settings = config(2, 24, stall_s=0.5, silence_s=0.9)
    host, log = FakeSpawner(settings, 24), MemoryLog()

    async def on_point(name: str, reached: str) -> None:
        if name == "w0001" and reached == "in_train" and len(log.records) == 1:
            await asyncio.Event().wait()

    host.on_point = on_point
    result = await Coordinator(settings, host, log).run()
    check(result, log)
    assert ("stalled", "w0001") in kinds(result)


async def test_below_the_quorum_the_fleet_waits_for_room() -> None:
    settings = config(2, 24, silence_s=60)
    host, log = FakeSpawner(settings, 24), MemoryLog()
    phases: set[str] = set()

    async def on_point(name: str, reached: str) -> None:
        if name == "w0001" and reached == "in_train" and len(log.records) == 2 and host.room > 1:
            host.room = 1
            host.kill(name)
            asyncio.get_running_loop().call_later(2.5, setattr, host, "room", 2)
            await asyncio.Event().wait()

    host.on_point = on_point
    coordinator = Coordinator(
        settings, host, log, on_progress=lambda progress: phases.add(progress.phase)
    )
    result = await coordinator.run()
    check(result, log)
    assert "waiting for a quorum" in phases
    assert ("healed", "w0002") in kinds(result)


async def test_members_that_die_again_and_again_end_the_run() -> None:
    settings = config(2, 24, silence_s=60)
    host, log = FakeSpawner(settings, 24), MemoryLog()

    async def on_point(name: str, reached: str) -> None:
        if reached == "before_offer":
            host.kill(name)
            await asyncio.Event().wait()

    host.on_point = on_point
    with pytest.raises(EngineFailed, match="were lost without a round in between"):
        await Coordinator(settings, host, log).run()
    assert log.records == []


def fleet(
    settings: DilocoConfig, steps: int, tmp_path: Path, log: MemoryLog
) -> tuple[FakeSpawner, Coordinator]:
    snapshots = Snapshots(DirectoryStore(tmp_path), "fleet")
    host = FakeSpawner(settings, steps, snapshots)
    return host, Coordinator(settings, host, log, snapshots=snapshots)


@pytest.mark.parametrize("outer", [{}, STREAMING], ids=["plain", "streaming"])
async def test_a_coordinator_lost_after_the_row_resumes_to_the_same_bits(
    outer: dict[str, object], tmp_path: Path
) -> None:
    settings = config(2, 24, outer)
    calm = MemoryLog()
    _, coordinator = fleet(settings, 24, tmp_path / "calm", calm)
    expected = await coordinator.run()

    async def lost(record: RoundRecord) -> None:
        if record.round == 3:
            raise LeaseLost("another attempt has taken over")

    log = MemoryLog(on_commit=lost)
    _, coordinator = fleet(settings, 24, tmp_path / "lost", log)
    with pytest.raises(LeaseLost):
        await coordinator.run()
    # The row is there, and no member has taken the round: it must be made again.
    assert [record.round for record in log.records] == [1, 2, 3]
    log.on_commit = None
    _, coordinator = fleet(settings, 24, tmp_path / "lost", log)
    result = await coordinator.run()
    assert result.digest == expected.digest
    assert [record.digest for record in log.records] == [record.digest for record in calm.records]
    assert ("resumed", "") in [(event.kind, event.member) for event in log.events]


@pytest.mark.parametrize("outer", [{}, STREAMING], ids=["plain", "streaming"])
async def test_a_fleet_stopped_within_a_round_resumes_to_the_same_bits(
    outer: dict[str, object], tmp_path: Path
) -> None:
    settings = config(2, 24, outer)
    calm = MemoryLog()
    _, coordinator = fleet(settings, 24, tmp_path / "calm", calm)
    expected = await coordinator.run()

    log = MemoryLog()
    snapshots = Snapshots(DirectoryStore(tmp_path / "stopped"), "fleet")
    host = FakeSpawner(settings, 24, snapshots)
    trained = 0

    async def on_point(name: str, reached: str) -> None:
        nonlocal trained
        trained += reached == "in_train"

    host.on_point = on_point
    host.pace_s |= {"w0000": 0.2, "w0001": 0.2}
    stopped = await Coordinator(
        settings, host, log, snapshots=snapshots, should_stop=lambda: trained > 20
    ).run()
    assert stopped.stopped and stopped.batches < stopped.total_batches
    host, coordinator = fleet(settings, 24, tmp_path / "stopped", log)
    host.on_point = on_point
    result = await coordinator.run()
    assert not result.stopped
    assert trained == result.total_batches
    assert result.digest == expected.digest
    assert [record.digest for record in log.records] == [record.digest for record in calm.records]


async def test_a_fleet_that_is_lost_whole_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    settings = config(2, 24, silence_s=60)
    log = MemoryLog()
    host, coordinator = fleet(settings, 24, tmp_path, log)

    async def on_point(name: str, reached: str) -> None:
        if reached == "in_train" and len(log.records) == 3 and not host.dead:
            for member in host.members:
                host.kill(member)

    host.on_point = on_point
    result = await coordinator.run()
    assert result.batches == result.total_batches
    assert [record.round for record in log.records] == list(range(1, 7))
    calm = MemoryLog()
    _, coordinator = fleet(settings, 24, tmp_path / "calm", calm)
    assert (await coordinator.run()).digest == result.digest


async def test_only_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    settings = config(2, 24)
    log = MemoryLog()
    _, coordinator = fleet(settings, 24, tmp_path, log)
    await coordinator.run()
    assert len(list((tmp_path / "fleet").iterdir())) == 2 * 3
    assert [record.round for record in await log.checkpoints()] == [5, 6]


async def test_checkpoints_that_could_not_be_removed_are_removed_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MemoryLog()
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "delete", unreachable)
        _, coordinator = fleet(config(2, 24), 24, tmp_path, log)
        result = await coordinator.run()
    assert result.batches == result.total_batches
    assert [record.round for record in await log.checkpoints()] == [1, 2, 3, 4, 5, 6]
    assert len(list((tmp_path / "fleet").iterdir())) == 6 * 3
    checkpoints = Checkpoints(Snapshots(DirectoryStore(tmp_path), "fleet"), log)
    newest = await checkpoints.open()
    assert newest is not None and newest[0].round == 6
    assert [record.round for record in await log.checkpoints()] == [5, 6]
    assert len(list((tmp_path / "fleet").iterdir())) == 2 * 3
    await checkpoints.remove_all()
    assert not list((tmp_path / "fleet").iterdir())


async def unreachable(self: DirectoryStore, key: str) -> None:
    raise Unavailable("the object store does not answer")
