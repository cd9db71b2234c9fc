"""No state without a way out: random calls, deaths and outages of Ray, then a quiet week.

After any sequence the supervisor alone brings the job to an end or to a driver that Ray shows
running, never two drivers at once, and every failure has its reason.
"""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy import text

from foundry.errors import Conflict, LeaseLost
from foundry.execution.jobs.domain import ENDED, MAX_FAILURES, JobState
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.queue import load
from foundry.execution.jobs.service import Job
from foundry.infra.database import Database
from foundry.supervisor.jobs import JobReconciler
from foundry.supervisor.ports import DriverObservation
from tests.execution.jobs.test_leases import cancel, resume, submit
from tests.fakes.cluster import FakeLauncher, FakeLease

pytestmark = pytest.mark.postgres


class World:
    """One job, its supervisor, and whatever happens to them."""

    def __init__(self, database: Database, job_id: UUID, seed: int) -> None:
        self.database, self.job_id = database, job_id
        self.random = random.Random(seed)
        self.launcher = FakeLauncher()
        self.now = 0.0
        self.leases: list[JobLease] = []
        self.restart()

    def restart(self) -> None:
        """The supervisor dies and comes back."""
        self.reconciler = JobReconciler(
            self.database, self.launcher, FakeLease(), clock=lambda: self.now
        )

    async def job(self) -> Job:
        found = await load(self.database, self.job_id)
        assert found is not None
        return found

    async def pass_time(self, seconds: float) -> None:
        """For the row; the supervisor's own clock goes along."""
        self.now += seconds
        columns = ("heartbeat_at", "cancel_requested_at", "progress_at", "retry_at")
        changes = ", ".join(f"{c} = {c} - make_interval(secs => :s)" for c in columns)
        async with self.database.begin() as db:
            await db.execute(text(f"UPDATE jobs SET {changes}"), {"s": seconds})

    async def supervise(self) -> None:
        await self.reconciler.reconcile()
        await self.reconciler.tasks.drain()
        running = [name for name, seen in self.launcher.drivers.items() if not seen.gone]
        assert len(running) <= 1, "two drivers at once"

    async def claim(self) -> None:
        for name, seen in self.launcher.drivers.items():
            if not seen.gone:
                try:
                    lease, _ = await JobLease.claim(self.database, self.job_id, name)
                except LeaseLost:
                    continue
                self.leases.append(lease)

    async def drive(self) -> None:
        """The newest holder of a lease writes something."""
        if not self.leases:
            return
        lease = self.leases[-1]
        error: dict[str, object] = {"code": "unavailable", "message": "the store is away"}
        acts: list[Callable[[], Awaitable[object]]] = [
            lease.heartbeat,
            lease.record_cancelled,
            lambda: lease.give_up(error),
        ]
        try:
            await self.random.choice(acts)()
        except LeaseLost:
            self.leases.pop()

    async def wait(self) -> None:
        await self.pass_time(self.random.choice((5, 25, 70, 400)))

    async def die(self) -> None:
        for submission in self.launcher.drivers:
            self.launcher.drivers[submission] = DriverObservation("ended", "", 137)

    async def freeze(self) -> None:
        """A call of Ray hangs from now on, or all are well again."""
        call = self.random.choice(("submit", "observe", "end", "list_nodes"))
        frozen: dict[str, Exception] = {call: TimeoutError("frozen")}
        self.launcher.faults = frozen if self.random.random() < 0.5 else {}

    async def ask(self) -> None:
        """The owner cancels or resumes."""
        with suppress(Conflict):
            await self.random.choice((cancel, resume))(self.database, self.job_id)

    async def reborn(self) -> None:
        self.restart()

    async def happen(self) -> None:
        """One thing out of many; the supervisor is as busy as all others."""
        others = (self.claim, self.drive, self.wait, self.die, self.freeze, self.ask, self.reborn)
        await self.random.choice((*[self.supervise] * 4, *others))()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_there_is_a_way_out(database: Database, seed: int) -> None:
    world = World(database, (await submit(database)).id, seed)
    for _ in range(40):
        await world.happen()
    world.launcher.faults = {}
    for _ in range(12):
        await world.pass_time(100)
        await world.supervise()
        if (await world.job()).state in ENDED:
            break
        await world.claim()
        for submission in world.launcher.drivers:
            # Nobody drives it well: every attempt dies.
            world.launcher.drivers[submission] = DriverObservation("ended", "", 1)
    else:
        for _ in range(3 * MAX_FAILURES):
            await world.pass_time(400)
            await world.supervise()
            for submission in world.launcher.drivers:
                world.launcher.drivers[submission] = DriverObservation("ended", "", 1)
    job = await world.job()
    assert job.state in ENDED, (job.state, job.phase, job.waiting_for)
    if job.state == JobState.FAILED:
        assert job.error is not None and job.error["message"]
        assert job.failures == MAX_FAILURES
    assert all(seen.gone for seen in world.launcher.drivers.values())
