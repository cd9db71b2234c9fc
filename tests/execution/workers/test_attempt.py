"""The heart of an attempt: beats, outages, a lost lease, and work that hangs."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from uuid import UUID

import pytest

from foundry.catalog.registry.domain import VersionSpec
from foundry.config import Settings
from foundry.errors import DatabaseUnavailable, EngineFailed, LeaseLost
from foundry.execution.jobs.domain import Phase
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.service import Job
from foundry.execution.workers import attempt as module
from foundry.execution.workers.attempt import (
    Attempt,
    Vitals,
    run_with_heartbeat,
    write_until_accepted,
)
from foundry.execution.workers.messages import Publication, Published
from foundry.infra.database import Database


@dataclass
class FakeLease:
    """`outcomes`: what each beat does, the last one for ever."""

    outcomes: list[bool | Exception] = field(default_factory=lambda: [False])
    beats: int = 0
    advances: list[tuple[Phase, float | None]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    shown: list[object] = field(default_factory=list)
    results: list[dict[str, object]] = field(default_factory=list)
    fence: int = 7
    on_beat: Callable[[int], None] = lambda beats: None

    async def heartbeat(self, progress: dict[str, object] | None = None) -> bool:
        self.beats += 1
        self.shown.append(progress)
        self.on_beat(self.beats)
        outcome = self.outcomes[0] if len(self.outcomes) == 1 else self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def advance(self, phase: Phase, allowance_s: float | None) -> None:
        self.advances.append((phase, allowance_s))

    async def log(self, text: str) -> None:
        self.lines.append(text)

    async def finish(self, result: dict[str, object]) -> None:
        self.results.append(result)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.001)
    monkeypatch.setattr(module, "_RETRY_S", 0.001)
    monkeypatch.setattr(module, "POLL_S", 0.001)


def attempted(lease: FakeLease, vitals: Vitals | None = None) -> Attempt:
    return Attempt(
        Settings(),
        cast(Database, None),
        cast(JobLease, lease),
        Job(kind="sft", attempt=1),
        vitals or Vitals(),
    )


async def until(event: asyncio.Event) -> str:
    await asyncio.wait_for(event.wait(), 20)
    return "done"


async def test_it_beats_while_the_work_waits_for_something_long() -> None:
    enough = asyncio.Event()
    lease = FakeLease(on_beat=lambda beats: enough.set() if beats == 5 else None)
    assert await run_with_heartbeat(attempted(lease), until(enough)) == "done"
    assert lease.beats >= 5
    assert lease.advances == [(Phase.PLACE, None)], "what is not new is not told again"


@pytest.mark.parametrize("fault", [DatabaseUnavailable("away"), TimeoutError()])
async def test_an_outage_ends_nothing_and_loses_no_news(fault: Exception) -> None:
    enough = asyncio.Event()
    lease = FakeLease(
        [fault, fault, False], on_beat=lambda beats: enough.set() if beats == 4 else None
    )
    attempt = attempted(lease)
    attempt.vitals.observe(Phase.LOAD)
    assert await run_with_heartbeat(attempt, until(enough)) == "done"
    assert lease.advances == [(Phase.LOAD, 900.0)]


async def test_a_beat_that_failed_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the usual pause a second failure would have used up the lease."""
    monkeypatch.setattr(module, "BEAT_S", 3600.0)
    enough = asyncio.Event()
    lease = FakeLease(
        [DatabaseUnavailable("away"), DatabaseUnavailable("away"), False],
        on_beat=lambda beats: enough.set() if beats == 3 else None,
    )
    assert await run_with_heartbeat(attempted(lease), until(enough)) == "done"
    assert lease.beats == 3


async def test_a_lost_lease_cancels_the_work() -> None:
    cancelled = False

    async def work() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    with pytest.raises(LeaseLost):
        await run_with_heartbeat(
            attempted(FakeLease([False, LeaseLost("another attempt")])), work()
        )
    assert cancelled


async def test_what_the_work_raises_comes_out_and_the_heart_stops() -> None:
    lease = FakeLease()

    async def work() -> None:
        raise EngineFailed("broken")

    with pytest.raises(EngineFailed, match="broken"):
        await run_with_heartbeat(attempted(lease), work())
    before = lease.beats
    await asyncio.sleep(0.02)
    assert lease.beats == before


async def test_a_cancel_is_heard() -> None:
    attempt = attempted(FakeLease([False, True]))
    assert not attempt.vitals.cancel_requested

    async def work() -> None:
        while not attempt.vitals.cancel_requested:  # noqa: ASYNC110 - it is no event
            await asyncio.sleep(0)

    await asyncio.wait_for(run_with_heartbeat(attempt, work()), 20)


@pytest.mark.parametrize("answers", [True, False])
async def test_work_that_hangs_ends_with_its_stacks(answers: bool) -> None:
    now = 0.0
    vitals = Vitals(lambda: now)
    lease = FakeLease()
    attempt = attempted(lease, vitals)

    async def stacks() -> str:
        if not answers:
            raise RuntimeError("the worker is gone")
        return "thread main: in all_reduce"

    vitals.dump_stacks = stacks
    vitals.observe(Phase.TRAIN, 1, 30.0)
    now = 180.0
    assert str(vitals.overdue) == "None"
    now = 181.0
    with pytest.raises(EngineFailed, match=r"nothing new for 181 s in the phase 'train'.*180 s"):
        await run_with_heartbeat(attempt, asyncio.Event().wait())
    assert any("in all_reduce" in line for line in lease.lines) == answers


async def test_work_that_hangs_without_a_worker_has_no_stacks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    vitals = Vitals(lambda: now)
    vitals.observe(Phase.TRAIN, 1, 30.0)
    now = 181.0
    lease = FakeLease()
    with pytest.raises(EngineFailed, match="nothing new for 181 s"):
        await run_with_heartbeat(attempted(lease, vitals), asyncio.Event().wait())
    assert (lease.lines, caplog.messages) == ([], [])


def test_progress_is_another_marker_or_another_phase() -> None:
    now = 0.0
    vitals = Vitals(lambda: now)
    vitals.observe(Phase.LOAD, 10)
    assert vitals.take_news() == (Phase.LOAD, 900.0)
    now = 800.0
    vitals.observe(Phase.LOAD, 10)
    assert vitals.take_news() is None
    now = 901.0
    assert "'load'" in str(vitals.overdue)
    vitals.observe(Phase.LOAD, 11)
    assert str(vitals.overdue) == "None"
    vitals.observe(Phase.PLACE, 11)
    now = 1e9
    assert str(vitals.overdue) == "None", "waiting for room is no hang"


async def test_a_result_is_published_for_the_jobs_owner_under_the_attempts_fence() -> None:
    lease = FakeLease()
    attempt = attempted(lease)
    job, tenant, project = (UUID(int=number) for number in (1, 2, 3))
    attempt.job.id, attempt.job.tenant_id, attempt.job.project_id = job, tenant, project
    spec = VersionSpec("bot", "adapter", "sft")
    assert attempt.publication(spec) == Publication(tenant, project, job, 7, spec)
    await attempt.finish(Published(UUID(int=4), "bot@0.1.0", "aa"), {"eval_loss": 0.5})
    assert lease.results == [
        {
            "version_id": str(UUID(int=4)),
            "model": "bot@0.1.0",
            "digest": "aa",
            "metrics": {"eval_loss": 0.5},
        }
    ]


async def test_a_dataset_that_holds_nothing_out_is_told() -> None:
    lease = FakeLease()
    attempt = attempted(lease)
    await attempt.say_if_unmeasured(4)
    assert lease.lines == []
    await attempt.say_if_unmeasured(0)
    assert [line.split(" ", 1)[1] for line in lease.lines] == [
        "the dataset holds no rows out: no eval loss is measured\n"
    ]


async def test_progress_is_shown_and_an_outage_only_delays_it() -> None:
    lease = FakeLease([DatabaseUnavailable("away"), True])
    attempt = attempted(lease)
    heard = []
    for step in (1, 2):
        await attempt.show({"step": step})
        heard.append(attempt.vitals.cancel_requested)
    assert heard == [False, True]
    assert lease.shown == [{"step": 1}, {"step": 2}]


async def test_what_is_said_has_its_time() -> None:
    lease = FakeLease()
    await attempted(lease).say("step 10 of 20")
    (line,) = lease.lines
    assert re.fullmatch(r"\d\d:\d\d:\d\d step 10 of 20\n", line)


async def test_an_end_is_written_through_an_outage_and_not_by_a_loser() -> None:
    outcomes: list[Exception | None] = [DatabaseUnavailable("a"), DatabaseUnavailable("a"), None]

    async def write() -> None:
        if (error := outcomes.pop(0)) is not None:
            raise error

    await write_until_accepted(write)
    assert outcomes == []

    async def lost() -> None:
        raise LeaseLost("another attempt")

    with pytest.raises(LeaseLost):
        await write_until_accepted(lost)
