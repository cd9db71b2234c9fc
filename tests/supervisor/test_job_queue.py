"""Which job begins, on a real PostgreSQL and a scripted cluster."""

from statistics import fmean

import pytest
from sqlalchemy import text

from foundry.execution.jobs.domain import JobState, Phase
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.placement import Bundle, Needs, NodeResources
from foundry.infra.database import Database
from tests.execution.jobs.test_leases import submit
from tests.supervisor.tower import Tower

pytestmark = pytest.mark.postgres


async def test_sixty_one_jobs_on_two_processors_start_two_drivers(database: Database) -> None:
    tower = Tower(database)
    tower.launcher.nodes = [NodeResources(Bundle(cpus=2), Bundle(cpus=2))]
    jobs = [await submit(database, f"job-{number}") for number in range(61)]
    await tower.reconcile(3)
    assert {job_id for _, job_id in tower.launcher.submitted} == {jobs[0].id, jobs[1].id}
    waiting = await tower.job(jobs[2].id)
    assert waiting.waiting_for == "free resources: it needs 1 CPU"
    lease, _ = await JobLease.claim(database, jobs[0].id, f"fj-{jobs[0].id}-1")
    await lease.advance(Phase.TRAIN, 120.0)
    tower.launcher.nodes = [NodeResources(Bundle(cpus=2), Bundle(cpus=1))]
    await tower.reconcile(2)
    assert len(tower.launcher.submitted) == 2, "the second one has not placed its worker yet"
    await lease.finish({})
    tower.launcher.nodes = [NodeResources(Bundle(cpus=2), Bundle(cpus=2))]
    await tower.reconcile(2)
    assert [job_id for _, job_id in tower.launcher.submitted][2:] == [jobs[2].id]


async def test_a_higher_priority_goes_first(database: Database) -> None:
    tower = Tower(database)
    tower.launcher.nodes = [NodeResources(Bundle(cpus=1), Bundle(cpus=1))]
    first, urgent = await submit(database, "first"), await submit(database, "urgent", priority=5)
    await tower.reconcile(2)
    assert [job_id for _, job_id in tower.launcher.submitted] == [urgent.id]
    assert (await tower.job(first.id)).waiting_for == "free resources: it needs 1 CPU"


async def test_a_window_full_of_jobs_that_no_node_holds_keeps_nobody_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry.supervisor.jobs.QUEUE_WINDOW", 3)
    monkeypatch.setattr("foundry.execution.jobs.queue.list_queue.__defaults__", (None, 3))
    tower = Tower(database)
    tower.launcher.nodes = [NodeResources(Bundle(cpus=2), Bundle(cpus=2))]
    large = [await submit(database, f"large-{n}", needs=Needs(cpus=99)) for n in range(7)]
    urgent = await submit(database, "urgent", priority=-1)
    for _ in range(4):
        await tower.reconcile()
    assert [job_id for _, job_id in tower.launcher.submitted] == [urgent.id]
    waiting = {(await tower.job(job.id)).waiting_for for job in large}
    assert waiting == {"a node: it needs 99 CPU, more than there is"}
    later = await submit(database, "later", priority=7)
    await tower.reconcile(4)
    assert [job_id for _, job_id in tower.launcher.submitted] == [urgent.id, later.id]


async def test_what_a_job_waits_for_is_written_when_it_changes(database: Database) -> None:
    tower, job = Tower(database), await submit(database, needs=Needs(cpus=99))

    async def row_version() -> object:
        async with database.begin() as db:
            return (await db.execute(text("SELECT xmin::text FROM jobs"))).scalar()

    await tower.reconcile()
    first = await row_version()
    await tower.reconcile(2)
    assert await row_version() == first
    tower.launcher.nodes = [NodeResources(Bundle(cpus=100), Bundle())]
    await tower.reconcile()
    assert (await tower.job(job.id)).waiting_for == "free resources: it needs 99 CPU"


async def test_jobs_that_hang_leave_the_page_to_those_behind_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pages of one job: the same as a hundred that hang before a hundred and first.
    for name in ("list_stalled_jobs", "list_jobs_to_start", "list_quiet_jobs"):
        monkeypatch.setattr(f"foundry.execution.jobs.queue.{name}.__defaults__", ((), 1))
    tower = Tower(database)
    hanging, _ = await tower.running("hanging")
    other, _ = await tower.running("other")
    for job in (hanging, other):
        await tower.age(job.id, "heartbeat_at", 31)
    tower.launcher.refuses.add(f"fj-{hanging.id}-1")
    await tower.reconcile(2)
    states = [(await tower.job(job.id)).state for job in (hanging, other)]
    assert states == [JobState.STALLED, JobState.QUEUED]


async def test_urgent_jobs_begin_first_when_many_do(database: Database) -> None:
    """More than steps that run at a time: a restart finds them all at once."""
    tower = Tower(database)
    jobs = [await submit(database, f"bot-{number}", priority=number) for number in range(30)]
    tower.launcher.faults["submit"] = TimeoutError("Ray is slow")
    await tower.reconcile(2)
    tower.launcher.faults.clear()
    tower.now += 60
    await tower.reconcile()
    submitted = [job_id for _, job_id in tower.launcher.submitted]
    places = [submitted.index(job.id) for job in jobs[::-1]]
    # Sixteen begin side by side, so neighbours may change places: without an order each third's
    # mean would be 14.5, give or take 2.7.
    assert fmean(places[:10]) < 11
    assert fmean(places[-10:]) > 18


async def test_nobody_looks_for_room_without_a_queue(database: Database) -> None:
    tower = Tower(database)
    tower.launcher.faults["list_nodes"] = AssertionError("nobody waits for a node")
    await tower.reconcile(3)
    assert tower.reconciler.tasks.list_busy() == set()
