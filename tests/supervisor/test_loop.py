"""The supervisor's decisions, on a real PostgreSQL and a scripted cluster."""

import asyncio
import logging
import os
from uuid import UUID

import pytest
from sqlalchemy import text

from foundry.errors import DatabaseUnavailable
from foundry.execution.jobs.leases import JobLease
from foundry.infra.database import Database
from foundry.infra.embedded.heartbeat import Heartbeat
from foundry.supervisor import loop
from foundry.supervisor.decisions import Limits
from foundry.supervisor.lease import Lease
from foundry.supervisor.loop import Chore, Punctuality, Supervisor
from foundry.supervisor.ports import DriverObservation
from tests.execution.jobs.test_leases import state, submit
from tests.fakes.cluster import FakeEngines, FakeLauncher

LIMITS = Limits(60.0, 120.0)
pytestmark = pytest.mark.postgres


class Watchtower:
    """A supervisor, its scripted cluster and a clock that a test moves."""

    def __init__(self, database: Database) -> None:
        self.launcher, self.engines = FakeLauncher(), FakeEngines()
        self.now = 1000.0
        self.supervisor = Supervisor(
            database, self.launcher, self.engines, LIMITS, clock=lambda: self.now
        )

    async def running_unheard(self, database: Database) -> UUID:
        """A job whose driver lives and has not reached PostgreSQL for an hour."""
        job = await submit(database, submission_id="by-hand")
        await JobLease.claim(database, job.id, "by-hand")
        self.launcher.drivers["by-hand"] = DriverObservation("running")
        async with database.begin() as db:
            await db.execute(text("UPDATE jobs SET heartbeat_at = now() - interval '1 hour'"))
        return job.id

    async def keep_lease(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            await self.supervisor.renew_lease()

    async def look(self) -> None:
        await self.supervisor.jobs.reconcile()


async def test_whoever_takes_the_lease_lets_drivers_renew_theirs_first(database: Database) -> None:
    tower = Watchtower(database)
    job_id = await tower.running_unheard(database)
    await tower.supervisor.renew_lease()
    assert tower.supervisor.lease.held
    await tower.look()
    assert await state(database, job_id) == "RUNNING"
    # Renewed while it is held: the grace is not prolonged.
    await tower.keep_lease(31)
    await tower.look()
    assert await state(database, job_id) == "STALLED"


@pytest.mark.parametrize("fault", [DatabaseUnavailable("PostgreSQL is away"), OSError("reset")])
async def test_a_lease_that_cannot_be_renewed_is_an_outage_for_drivers(
    database: Database, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    tower = Watchtower(database)
    await tower.supervisor.renew_lease()
    await tower.keep_lease(31)
    job_id = await tower.running_unheard(database)

    async def fail() -> bool:
        raise fault

    with monkeypatch.context() as away:
        away.setattr(tower.supervisor.lease, "take_or_renew", fail)
        await tower.supervisor.renew_lease()
        await tower.look()
        assert await state(database, job_id) == "RUNNING"
    await tower.keep_lease(31)
    await tower.look()
    assert await state(database, job_id) == "STALLED"


async def test_a_chore_that_fails_is_done_again_and_stops_nothing(database: Database) -> None:
    turns, done = 0, asyncio.Event()

    async def work() -> int:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise ValueError("a fault")
        done.set()
        return turns

    supervisor = Supervisor(
        database,
        FakeLauncher(),
        FakeEngines(),
        LIMITS,
        chores=[Chore("work", work, 0.01)],
    )
    assert await supervisor.lease.take_or_renew()
    running = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(done.wait(), 10)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    assert turns >= 2


async def test_a_turn_that_hangs_ends_by_its_deadline(database: Database) -> None:
    turns, again = 0, asyncio.Event()

    async def hang() -> None:
        nonlocal turns
        turns += 1
        if turns > 1:
            again.set()
        await asyncio.Event().wait()

    chores = [Chore("hangs", hang, 0.01, deadline_s=0.01)]
    supervisor = Supervisor(database, FakeLauncher(), FakeEngines(), LIMITS, chores=chores)
    assert await supervisor.lease.take_or_renew()
    running = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(again.wait(), 20)
    found = supervisor.status()["chores"]
    assert isinstance(found, dict)
    assert found["hangs"]["succeeded_s_ago"] is None
    running.cancel()
    await asyncio.wait({running})


async def is_lease_taken(database: Database) -> bool:
    async with database.begin() as db:
        found = await db.execute(text("SELECT expires_at > now() FROM supervisor_leases"))
        return bool(found.scalar_one())


async def test_it_takes_the_lease_by_itself_and_gives_it_to_nobody_while_it_runs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RENEW_S", 0.01)
    tower = Watchtower(database)
    running = asyncio.create_task(tower.supervisor.run())
    async with asyncio.timeout(20):
        while not tower.supervisor.lease.held:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with database.begin() as db:
            await db.execute(text("UPDATE supervisor_leases SET expires_at = now()"))
        while not await is_lease_taken(database):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not await Lease(database).take_or_renew()
    running.cancel()
    await asyncio.wait({running})


async def test_a_chore_that_is_overdue_alerts(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "PERIOD_S", 0.001)
    now, begun = 1000.0, asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    supervisor = Supervisor(
        database, FakeLauncher(), FakeEngines(), LIMITS, lambda: now, [Chore("hangs", hang, 1.0)]
    )
    assert await supervisor.lease.take_or_renew()
    running = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(begun.wait(), 20)
    now += 61.0
    async with asyncio.timeout(20):
        while not any("ALERT: hangs" in message for message in caplog.messages):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait({running})
    alerts = [message for message in caplog.messages if "ALERT: hangs" in message]
    assert alerts == ["ALERT: hangs has not succeeded for 61 s; it is due every 1 s"]


async def test_only_the_holder_of_the_lease_acts(database: Database) -> None:
    """A second supervisor does nothing until the first has given the lease up."""
    turns: list[str] = []
    done = {name: asyncio.Event() for name in ("first", "second")}

    def chore(name: str) -> Chore:
        async def work() -> None:
            turns.append(name)
            done[name].set()

        # However seldom its turn is, who takes the lease begins within a second.
        return Chore(name, work, {"first": 0.01, "second": 3600.0}[name])

    first, second = (
        Supervisor(database, FakeLauncher(), FakeEngines(), LIMITS, chores=[chore(name)])
        for name in done
    )
    assert await first.lease.take_or_renew()
    assert not await second.lease.take_or_renew()
    tasks = {"first": asyncio.create_task(first.run()), "second": asyncio.create_task(second.run())}
    await asyncio.wait_for(done["first"].wait(), 20)
    assert (first.status()["acts"], second.status()["acts"]) == (True, False)
    assert "second" not in turns
    tasks["first"].cancel()
    await asyncio.wait({tasks["first"]})
    await first.lease.give_up()
    assert await second.lease.take_or_renew()
    await asyncio.wait_for(done["second"].wait(), 20)
    tasks["second"].cancel()
    await asyncio.wait({tasks["second"]})


def test_an_overdue_chore_is_told_once_and_again_after_a_success(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None: ...

    punctuality = Punctuality(Chore("reviews", work, 100.0), since=0.0)
    with caplog.at_level(logging.WARNING):
        assert not punctuality.check_overdue(300.0)
        assert punctuality.check_overdue(301.0)
        assert punctuality.check_overdue(400.0)
        punctuality.note_success(400.0)
        assert not punctuality.check_overdue(700.0)
        assert punctuality.check_overdue(701.0)
    assert [record.getMessage() for record in caplog.records] == [
        "ALERT: reviews has not succeeded for 301 s; it is due every 100 s",
        "reviews succeeds again",
        "ALERT: reviews has not succeeded for 301 s; it is due every 100 s",
    ]


async def test_the_status_names_every_pass_and_chore(database: Database) -> None:
    async def work() -> None: ...

    now = 50.0
    supervisor = Supervisor(
        database,
        FakeLauncher(),
        FakeEngines(),
        LIMITS,
        clock=lambda: now,
        chores=[Chore("reviews", work, 3600.0)],
    )
    now = 120.0
    assert supervisor.status() == {
        "acts": False,
        "chores": {
            "jobs": {"succeeded_s_ago": None, "period_s": 1.0, "overdue": True},
            "endpoints": {"succeeded_s_ago": None, "period_s": 1.0, "overdue": True},
            "reviews": {"succeeded_s_ago": None, "period_s": 3600.0, "overdue": False},
        },
    }


async def test_two_chores_of_one_name_would_hide_each_other(database: Database) -> None:
    async def work() -> None:
        raise AssertionError("it is never begun")

    chores = [Chore("blobs", work, 1.0), Chore("blobs", work, 1.0)]
    with pytest.raises(ValueError, match="two chores share a name"):
        Supervisor(database, FakeLauncher(), FakeEngines(), LIMITS, chores=chores)


async def test_a_pass_that_hangs_is_cancelled_at_its_deadline_and_done_again(
    database: Database,
) -> None:
    turns, again = list[str](), asyncio.Event()

    async def hang_once() -> None:
        turns.append("begun")
        if len(turns) > 1:
            again.set()
            return
        await asyncio.Event().wait()

    supervisor = Supervisor(
        database,
        FakeLauncher(),
        FakeEngines(),
        LIMITS,
        chores=[Chore("hangs", hang_once, 0.01, 0.1)],
    )
    assert await supervisor.lease.take_or_renew()
    running = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(again.wait(), 20)
    running.cancel()
    await asyncio.wait({running})
    assert turns[:2] == ["begun", "begun"]


async def test_the_heartbeat_names_what_outlasts_its_deadline(database: Database) -> None:
    now = 1000.0
    supervisor = Supervisor(
        database, FakeLauncher(), FakeEngines(), LIMITS, clock=lambda: now, chores=[]
    )
    jobs, endpoints = supervisor._watched
    jobs.turn_since = now
    beat = supervisor.take_heartbeat()
    assert (beat.pid, beat.due_s, beat.acts, beat.stuck) == (os.getpid(), 15.0, False, ())
    # A pass's deadline and half a minute in which what was cancelled may unwind.
    now += 90.0
    assert supervisor.take_heartbeat().stuck == ()
    now += 0.1
    assert supervisor.take_heartbeat().stuck == ("jobs",)
    jobs.turn_since = None
    assert supervisor.take_heartbeat().stuck == ()
    assert not endpoints.is_stuck(now)


async def test_it_beats_while_its_loop_turns_whatever_the_disk_says(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_BEAT_S", 0.01)
    beats: list[Heartbeat] = []
    enough = asyncio.Event()
    here = asyncio.get_running_loop()

    def beat(heartbeat: Heartbeat) -> None:
        beats.append(heartbeat)
        if len(beats) == 1:
            raise OSError(5, "the disk is broken")
        here.call_soon_threadsafe(enough.set)

    supervisor = Supervisor(database, FakeLauncher(), FakeEngines(), LIMITS, beat=beat)
    running = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(enough.wait(), 20)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    assert beats[0].at < beats[1].at
