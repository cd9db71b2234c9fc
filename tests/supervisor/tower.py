"""A reconciler of jobs on a real PostgreSQL, with a scripted cluster."""

from uuid import UUID

from sqlalchemy import text

from foundry.execution.jobs.domain import JobState
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.queue import load
from foundry.execution.jobs.service import Job
from foundry.infra.database import Database
from foundry.supervisor.jobs import JobReconciler
from tests.execution.jobs.test_leases import submit
from tests.fakes.cluster import FakeLauncher, FakeLease


class Tower:
    """A reconciler, its scripted cluster and a clock that a test moves."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.launcher = FakeLauncher()
        self.now = 1000.0
        self.lease = FakeLease()
        self.reconciler = JobReconciler(database, self.launcher, self.lease, clock=lambda: self.now)

    async def reconcile(self, passes: int = 1) -> None:
        for _ in range(passes):
            await self.reconciler.reconcile()
            await self.reconciler.tasks.drain()

    async def job(self, job_id: UUID) -> Job:
        found = await load(self.database, job_id)
        assert found is not None
        return found

    async def age(self, job_id: UUID, column: str, seconds: float) -> None:
        """Move a time of the row into the past, as the database sees it."""
        async with self.database.begin() as db:
            await db.execute(
                text(
                    f"UPDATE jobs SET {column} = now() - make_interval(secs => :s) WHERE id = :id"
                ),
                {"s": seconds, "id": job_id},
            )

    async def skip_delays(self) -> None:
        """Let the delay between two attempts be over."""
        async with self.database.begin() as db:
            await db.execute(text("UPDATE jobs SET retry_at = now() WHERE retry_at IS NOT NULL"))

    async def running(self, name: str = "bot") -> tuple[Job, JobLease]:
        job = await submit(self.database, name)
        await self.reconcile(2)
        started = await self.job(job.id)
        assert started.state == JobState.STARTING
        lease, claimed = await JobLease.claim(self.database, job.id, started.submission_id)
        return claimed, lease
