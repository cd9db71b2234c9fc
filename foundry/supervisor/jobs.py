"""Converges the drivers of jobs on the rows.

A pass lists and offers; each job has a task of its own, so nothing that Ray does to one delays
another. A job's next attempt begins only when Ray shows the one before it ended. Immediately before
anything is started or ended, the supervisor's lease is confirmed by PostgreSQL's clock.
"""

import time
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from uuid import UUID

from foundry.execution.jobs.placement import Waiting, place_jobs
from foundry.execution.jobs.queue import (
    QUEUE_WINDOW,
    confirm_attempt,
    expire_leases,
    list_jobs_to_start,
    list_jobs_to_stop,
    list_queue,
    list_quiet_jobs,
    list_reservations,
    list_stalled_jobs,
    mark_cancelled,
    mark_stalled,
    open_attempt,
    record_decision,
    requeue_or_fail_stalled,
    withdraw_attempt,
)
from foundry.execution.jobs.service import Job
from foundry.infra.database import Database
from foundry.supervisor.ports import ActingRight, DriverObservation, JobLauncher
from foundry.supervisor.tasks import KeyedTasks

# Leases look expired right after PostgreSQL comes back: their holders could not renew them.
OUTAGE_GRACE_S = 30.0
_PLACEMENT = "placement"
# Steps that run or wait at a time; each holds a job's row in memory.
_MOST_BUSY = 1000
# The wish of steps that end a job for its owner: it does not wait for a start that failed.
_STOP = "stop"

_Steps = dict[object, Callable[[], Awaitable[object]]]


class JobReconciler:
    """Moves every job that is not at rest one step per pass."""

    def __init__(
        self,
        database: Database,
        launcher: JobLauncher,
        lease: ActingRight,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._lease = lease
        self._launcher = launcher
        self._clock = clock
        self.tasks = KeyedTasks("job", clock=clock)
        # What this process remembers between passes; losing it costs time only.
        self._database_back = 0.0
        self._queue_place: Waiting | None = None

    async def reconcile(self) -> None:
        """One pass: offer a step for each job; leases expire whatever the steps do."""
        steps: _Steps = {_PLACEMENT: self._place_queue}
        stops: _Steps = {}
        busy = self.tasks.list_busy()
        if self._clock() >= self._database_back:
            await self._lease.confirm()
            await expire_leases(self._database)
        if len(busy) < _MOST_BUSY:
            steps |= await self._list_steps(_only_jobs(busy))
        stopping = self.tasks.list_busy_with(_STOP)
        if len(stopping) < _MOST_BUSY:
            stops = await self._list_stops(_only_jobs(stopping))
        self.tasks.keep_only(steps.keys() | stops.keys() | busy)
        for key, step in stops.items():
            self.tasks.offer(key, step, _STOP)
        # In the order of the lists: the first ones begin first.
        for key, step in steps.items():
            if key not in stops:
                self.tasks.offer(key, step)

    async def _list_steps(self, busy: set[UUID]) -> _Steps:
        """What can be done for jobs that are not `busy`; of two steps of a job the last counts."""
        steps: _Steps = {}
        if self._clock() >= self._database_back:
            # Not during an outage's grace: a driver that waits for PostgreSQL looks quiet, too.
            for job in await list_quiet_jobs(self._database, busy):
                steps[job.id] = partial(self._check_quiet_driver, job)
        for job in await list_jobs_to_start(self._database, busy):
            steps[job.id] = partial(self._start, job)
        for job in await list_stalled_jobs(self._database, busy):
            steps[job.id] = partial(self._requeue_or_fail, job)
        return steps

    async def _list_stops(self, busy: set[UUID]) -> _Steps:
        jobs = await list_jobs_to_stop(self._database, busy=busy)
        return {job.id: partial(self._stop, job) for job in jobs}

    def note_outage(self) -> None:
        """PostgreSQL was away: give lease holders time to renew."""
        self._database_back = self._clock() + OUTAGE_GRACE_S

    async def _place_queue(self) -> None:
        queue = await list_queue(self._database, self._queue_place)
        if not queue:
            self._queue_place = None
            return
        # In this order, what is placed meanwhile is counted twice and never not at all.
        reserved = await list_reservations(self._database)
        nodes = await self._launcher.list_nodes()
        decision = place_jobs(queue, reserved, nodes)
        await record_decision(self._database, decision, queue)
        # Jobs that no node could hold set nothing aside: when a whole window is of their kind, the
        # next pass weighs those behind it, so they keep nobody waiting.
        passed_over = len(queue) >= QUEUE_WINDOW and len(decision.oversized) == len(queue)
        self._queue_place = queue[-1] if passed_over else None

    async def _start(self, job: Job) -> None:
        if job.submission_id is not None and job.submitted_at is not None:
            await self._end_driver(job.submission_id)
        opened = await open_attempt(self._database, job)
        if opened is None or opened.submission_id is None:
            return
        await self._lease.confirm()
        try:
            await self._launcher.submit(opened.submission_id, job.id)
        except Exception:
            # Whatever Ray raises: the attempt may be running or not, and is tried again under its
            # id. The reason is logged with the step; the user reads what it means.
            await withdraw_attempt(
                self._database, opened, "Ray, which did not take its driver: trying again"
            )
            raise
        await confirm_attempt(self._database, opened)

    async def _check_quiet_driver(self, job: Job) -> None:
        """A driver that is quiet: ask Ray whether it lives."""
        if job.submission_id is None:
            return
        seen = await self._launcher.observe(job.submission_id)
        if seen.gone:
            await self._lease.confirm()
            await mark_stalled(self._database, job, describe_end(job, seen))

    async def _requeue_or_fail(self, job: Job) -> None:
        seen = DriverObservation("absent")
        if job.submission_id is not None:
            seen = await self._end_driver(job.submission_id)
        error: dict[str, object] = {
            "code": "engine_failed",
            "message": describe_end(job, seen),
            "attempt": job.attempt,
        }
        if seen.log_tail:
            error["log"] = list(seen.log_tail)
        await requeue_or_fail_stalled(self._database, job, error)

    async def _stop(self, job: Job) -> None:
        if job.submission_id is not None:
            await self._end_driver(job.submission_id)
        await mark_cancelled(self._database, job)

    async def _end_driver(self, submission_id: str) -> DriverObservation:
        await self._lease.confirm()
        return await self._launcher.end(submission_id)


def _only_jobs(keys: set[Hashable]) -> set[UUID]:
    return {key for key in keys if isinstance(key, UUID)}


def describe_end(job: Job, seen: DriverObservation) -> str:
    """How the driver of a job's attempt ended, for its owner."""
    what = f"the driver of attempt {job.attempt} ended without a word"
    if seen.status == "absent":
        return f"{what}: Ray does not know it any more"
    code = seen.exit_code
    if code is not None and (code < 0 or code > 128):
        number = -code if code < 0 else code - 128
        hint = " (killed: was there enough memory?)" if number == 9 else ""
        return f"{what}, by signal {number}{hint}"
    return f"{what}" if code is None else f"{what}, with exit code {code}"
