"""What ended jobs leave in the object store: logs are archived, checkpoints removed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from uuid import UUID

from foundry.errors import DatabaseUnavailable, Unavailable
from foundry.execution.fleets.service import FleetLog, storage_prefix
from foundry.execution.jobs.log_archive import archive_log
from foundry.execution.jobs.retention import (
    is_still_ended,
    list_collectable_jobs,
    list_unarchived_jobs,
    mark_collected,
)
from foundry.execution.jobs.service import Job
from foundry.execution.workers.checkpoints import RemoteCheckpoints
from foundry.execution.workers.diloco.checkpoints import Checkpoints
from foundry.execution.workers.diloco.snapshots import Snapshots
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore

# Of 50 jobs each; the rest has the next turn.
_MOST_PAGES = 10
# A few objects of one job; a store that hangs has deadlines of its own, which may add up.
_JOB_DEADLINE_S = 120.0

log = logging.getLogger(__name__)


class JobCollector:
    """Archives logs and removes checkpoints of ended jobs.

    Args:
        resumable_s: how long a failed or cancelled job can be resumed from its checkpoints.
    """

    def __init__(self, database: Database, objects: ObjectStore, resumable_s: float) -> None:
        self._database = database
        self._objects = objects
        self._resumable_s = resumable_s

    async def collect(self) -> None:
        """One turn; what fails holds up no other job and is found again by the next.

        Raises:
            Unavailable: of some job something is left.
        """
        left = [
            *await self._collect_each(
                lambda failed: list_unarchived_jobs(self._database, skipped=failed),
                self._archive_log,
            ),
            *await self._collect_each(
                lambda failed: list_collectable_jobs(
                    self._database, self._resumable_s, skipped=failed
                ),
                self._remove_checkpoints,
            ),
        ]
        if left:
            raise Unavailable(f"jobs of which something is left: {', '.join(map(str, left))}")

    async def _collect_each(
        self,
        list_jobs: Callable[[Collection[UUID]], Awaitable[Sequence[Job]]],
        step: Callable[[Job], Awaitable[None]],
    ) -> list[UUID]:
        """Carry `step` out on page after page.

        Returns the jobs whose step failed.

        Args:
            list_jobs: a page without those that failed: they are listed first, and a page full of
                them would hide all others.
        """
        failed: list[UUID] = []
        for _ in range(_MOST_PAGES):
            jobs = await list_jobs(failed)
            for job in jobs:
                try:
                    async with asyncio.timeout(_JOB_DEADLINE_S):
                        await step(job)
                except DatabaseUnavailable:
                    # It would fail for each of them, after a wait.
                    raise
                except Exception:
                    log.exception("what job %s left cannot be collected now", job.id)
                    failed.append(job.id)
            if not jobs:
                break
        return failed

    async def _remove_checkpoints(self, job: Job) -> None:
        # The page may be an hour old, and the job resumed: it still needs them.
        if not await is_still_ended(self._database, job):
            return
        checkpoints = RemoteCheckpoints(self._database, self._objects, job.id, job.fence)
        if not await checkpoints.prune(0):
            raise Unavailable("the object store does not remove its checkpoints")
        if job.kind == "diloco":
            fleet = FleetLog(self._database, job.id, job.fence)
            await Checkpoints(Snapshots(self._objects, storage_prefix(job.id)), fleet).remove_all()
            await fleet.forget_checkpoints()
        await mark_collected(self._database, job)

    async def _archive_log(self, job: Job) -> None:
        await archive_log(self._database, self._objects, job)
