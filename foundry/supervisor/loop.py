"""Converges running things on the desired state in PostgreSQL.

Level-triggered: each pass reads the rows and the cluster and offers one step for every difference,
so a missed event, a restart or a second supervisor costs a pass and never a fact. The passes only
list; each thing's step is a task of its own (`tasks`).
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from foundry.errors import DatabaseUnavailable
from foundry.infra.database import Database
from foundry.supervisor.endpoints import EndpointReconciler
from foundry.supervisor.jobs import JobReconciler
from foundry.supervisor.ports import EngineHost, JobLauncher

log = logging.getLogger(__name__)

PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class Chore:
    """Work beside the reconciling, every so many seconds; a failure waits for the next turn."""

    step: Callable[[], Awaitable[object]]
    period_s: float


class Supervisor:
    """One per cluster; two would only do the same work twice."""

    def __init__(
        self,
        database: Database,
        launcher: JobLauncher,
        engines: EngineHost,
        engine_start_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        chores: Sequence[Chore] = (),
    ) -> None:
        self.jobs = JobReconciler(database, launcher, clock)
        self.endpoints = EndpointReconciler(database, engines, engine_start_timeout_s, clock)
        self._chores = chores

    async def run(self) -> None:
        """Until cancelled; a pass that fails is logged and tried again."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repeat(self.jobs.reconcile))
                group.create_task(self._repeat(self.endpoints.reconcile))
                for chore in self._chores:
                    group.create_task(self._repeat(chore.step, chore.period_s))
        finally:
            await self.jobs.tasks.close()
            await self.endpoints.tasks.close()

    async def _repeat(
        self, step: Callable[[], Awaitable[object]], period_s: float = PERIOD_S
    ) -> None:
        while True:
            try:
                await step()
            except DatabaseUnavailable:
                self.jobs.note_outage()
                log.warning("PostgreSQL cannot be reached; trying again")
            except Exception:
                # The loop outlives every fault of a pass: the next one starts from the facts again.
                log.exception("a pass failed; trying again")
            await asyncio.sleep(period_s)
