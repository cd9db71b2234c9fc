"""Converges the drivers of jobs on the rows: starts what is due, ends what must stop, notices
the dead."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from uuid import UUID

from foundry.execution.jobs.domain import JobState
from foundry.execution.jobs.service import (
    Job,
    due,
    expire_leases,
    mark_cancelled,
    mark_failed,
    mark_starting,
    stopping,
)
from foundry.infra.database import Database
from foundry.supervisor.ports import JobLauncher
from foundry.supervisor.tasks import KeyedTasks

MAX_ATTEMPTS = 3
# A driver that was asked to stop checkpoints first; after this it is ended.
STOP_GRACE_S = 60.0
# Leases look expired right after PostgreSQL comes back: their holders could not renew them.
OUTAGE_GRACE_S = 30.0


class JobReconciler:
    """Moves every job that is not at rest one step per pass."""

    def __init__(
        self,
        database: Database,
        launcher: JobLauncher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._launcher = launcher
        self._clock = clock
        self.tasks = KeyedTasks("job", clock=clock)
        # What this process remembers between passes; losing it costs time only.
        self._stopping_since: dict[UUID, float] = {}
        self._database_back = 0.0

    async def reconcile(self) -> None:
        """One pass: offer a step for each job; leases expire whatever the steps do."""
        if self._clock() >= self._database_back:
            await expire_leases(self._database)
        waiting, asked = await due(self._database), await stopping(self._database)
        self.tasks.keep_only({job.id for job in (*waiting, *asked)})
        for job in waiting:
            self.tasks.offer(job.id, partial(self._start, job))
        self._offer_stops({job.id: job for job in asked})

    def note_outage(self) -> None:
        """PostgreSQL was away: give lease holders time to renew."""
        self._database_back = self._clock() + OUTAGE_GRACE_S

    async def _start(self, job: Job) -> None:
        if job.state == JobState.STALLED and job.attempt >= MAX_ATTEMPTS:
            await mark_failed(
                self._database,
                job.id,
                "engine_failed",
                f"its driver died {job.attempt} times: see `foundry jobs logs {job.id}`",
            )
            return
        started = await mark_starting(self._database, job.id)
        if started is not None and started.submission_id is not None:
            await self._launcher.submit(started.submission_id, job.id)

    def _offer_stops(self, asked: Mapping[UUID, Job]) -> None:
        since = self._stopping_since
        for job_id in [job_id for job_id in since if job_id not in asked]:
            del since[job_id]
        for job_id, job in asked.items():
            if self._clock() - since.setdefault(job_id, self._clock()) < STOP_GRACE_S:
                continue
            self.tasks.offer(job_id, partial(self._stop, job))

    async def _stop(self, job: Job) -> None:
        if job.submission_id is not None:
            await self._launcher.stop(job.submission_id)
        await mark_cancelled(self._database, job.id)
