"""Converges running things on the desired state in PostgreSQL.

Level-triggered: each pass reads the rows and the cluster and moves every difference one step, so a
missed event, a restart or a second supervisor costs a pass and never a fact.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol
from uuid import UUID

from foundry.errors import DatabaseUnavailable, EngineFailed, FoundryError
from foundry.execution.jobs.domain import JobState
from foundry.execution.jobs.service import (
    due,
    expire_leases,
    mark_cancelled,
    mark_failed,
    mark_starting,
    stopping,
)
from foundry.infra.database import Database
from foundry.serving.endpoints.domain import EndpointSnapshot, EndpointState
from foundry.serving.endpoints.service import observe, unsettled

log = logging.getLogger(__name__)

PERIOD_S = 1.0
MAX_ATTEMPTS = 3
# A driver that was asked to stop checkpoints first; after this it is ended.
STOP_GRACE_S = 60.0
# Leases look expired right after PostgreSQL comes back: their holders could not renew them.
OUTAGE_GRACE_S = 30.0

EngineStatus = Literal["absent", "starting", "running", "failed"]
_S = EndpointState


@dataclass(frozen=True, slots=True)
class EngineObservation:
    status: EngineStatus
    message: str = ""


class JobLauncher(Protocol):
    """Ray's job submission."""

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        """Start the driver of a job; a known submission id changes nothing."""

    async def stop(self, submission_id: str) -> None:
        """End a driver that did not stop by itself."""


class EngineHost(Protocol):
    """Ray Serve's engine applications."""

    async def deploy(self, endpoint: EndpointSnapshot) -> None: ...

    async def observe(self, app_name: str) -> EngineObservation: ...

    async def verify(self, endpoint: EndpointSnapshot) -> None:
        """One short greedy generation. Raises EngineFailed."""

    async def delete(self, app_name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Chore:
    """Work beside the reconciling, every so many seconds; a failure waits for the next turn."""

    step: Callable[[], Awaitable[object]]
    period_s: float


@dataclass(slots=True)
class _Watch:
    """What this process remembers between passes; losing it costs time only."""

    starting_since: dict[UUID, float] = field(default_factory=dict)
    stopping_since: dict[UUID, float] = field(default_factory=dict)
    database_back: float = 0.0


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
        self._database = database
        self._launcher = launcher
        self._engines = engines
        self._engine_start_timeout_s = engine_start_timeout_s
        self._clock = clock
        self._chores = chores
        self._watch = _Watch()

    async def run(self) -> None:
        """Until cancelled; a pass that fails is logged and tried again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._forever(self.reconcile_jobs))
            group.create_task(self._forever(self.reconcile_endpoints))
            for chore in self._chores:
                group.create_task(self._forever(chore.step, chore.period_s))

    async def _forever(
        self, step: Callable[[], Awaitable[object]], period_s: float = PERIOD_S
    ) -> None:
        while True:
            try:
                await step()
            except DatabaseUnavailable:
                self._watch.database_back = self._clock() + OUTAGE_GRACE_S
                log.warning("PostgreSQL cannot be reached; trying again")
            except Exception:
                # The loop outlives every fault of a pass: the next one starts from the facts again.
                log.exception("a pass failed; trying again")
            await asyncio.sleep(period_s)

    async def reconcile_jobs(self) -> None:
        """Start drivers that are due, end those that must stop, notice those that died."""
        for job in await due(self._database):
            if job.state == JobState.STALLED and job.attempt >= MAX_ATTEMPTS:
                await mark_failed(
                    self._database,
                    job.id,
                    "engine_failed",
                    f"its driver died {job.attempt} times: see `foundry jobs logs {job.id}`",
                )
                continue
            started = await mark_starting(self._database, job.id)
            if started is not None and started.submission_id is not None:
                await self._launcher.submit(started.submission_id, job.id)
        await self._stop_jobs()
        if self._clock() >= self._watch.database_back:
            await expire_leases(self._database)

    async def _stop_jobs(self) -> None:
        asked = {job.id: job for job in await stopping(self._database)}
        since = self._watch.stopping_since
        for job_id in [job_id for job_id in since if job_id not in asked]:
            del since[job_id]
        for job_id, job in asked.items():
            if self._clock() - since.setdefault(job_id, self._clock()) < STOP_GRACE_S:
                continue
            if job.submission_id is not None:
                await self._launcher.stop(job.submission_id)
            await mark_cancelled(self._database, job_id)

    async def reconcile_endpoints(self) -> None:
        """Move every endpoint that is not at rest one step."""
        pending = await unsettled(self._database)
        alive = {endpoint.id for endpoint in pending if endpoint.state in _DEADLINED}
        since = self._watch.starting_since
        for endpoint_id in [found for found in since if found not in alive]:
            del since[endpoint_id]
        for endpoint in pending:
            try:
                await self._reconcile(endpoint)
            except DatabaseUnavailable:
                raise
            except FoundryError as error:
                # A failed revision holds nothing: the next deploy starts a new one.
                await self._engines.delete(endpoint.app_name)
                await self._observe(endpoint, _S.FAILED, error.message)

    async def _reconcile(self, endpoint: EndpointSnapshot) -> None:
        if endpoint.desired != "running":
            await self._remove_previous(endpoint)
            await self._engines.delete(endpoint.app_name)
            gone = _S.DELETED if endpoint.desired == "deleted" else _S.STOPPED
            await self._observe(endpoint, gone)
        elif endpoint.state in _NOT_YET_DEPLOYED:
            self._watch.starting_since[endpoint.id] = self._clock()
            await self._remove_previous(endpoint)
            await self._engines.deploy(endpoint)
            await self._observe(endpoint, _S.DEPLOYING)
        else:
            await self._follow(endpoint)

    async def _remove_previous(self, endpoint: EndpointSnapshot) -> None:
        """Before the new engine: the accelerators may not do for both."""
        if endpoint.previous_app_name is not None:
            await self._engines.delete(endpoint.previous_app_name)

    async def _follow(self, endpoint: EndpointSnapshot) -> None:
        """Compare a deployed endpoint with its engine."""
        seen = await self._engines.observe(endpoint.app_name)
        if seen.status == "absent":
            # The cluster was lost: build it again from the row.
            await self._observe(endpoint, _S.PENDING)
        elif seen.status == "failed":
            raise EngineFailed(f"the engine did not start: {seen.message}")
        elif seen.status == "running":
            await self._running(endpoint)
        elif endpoint.state == _S.RUNNING:
            await self._observe(endpoint, _S.DEGRADED, seen.message or "the engine restarts")
        elif endpoint.state == _S.DEPLOYING:
            await self._waiting(endpoint)

    async def _running(self, endpoint: EndpointSnapshot) -> None:
        if endpoint.state == _S.DEPLOYING:
            await self._observe(endpoint, _S.VERIFYING)
        elif endpoint.state == _S.VERIFYING:
            await self._engines.verify(endpoint)
            await self._observe(endpoint, _S.RUNNING)
        elif endpoint.state == _S.DEGRADED:
            await self._observe(endpoint, _S.RUNNING)

    async def _waiting(self, endpoint: EndpointSnapshot) -> None:
        began = self._watch.starting_since.setdefault(endpoint.id, self._clock())
        waited = self._clock() - began
        if waited > self._engine_start_timeout_s:
            raise EngineFailed(
                f"the engine was not ready after {waited:.0f} s: see `foundry logs serve`; "
                "raise FOUNDRY_SERVING__ENGINE_START_TIMEOUT_S if it only needs longer"
            )

    async def _observe(
        self, endpoint: EndpointSnapshot, state: EndpointState, error: str | None = None
    ) -> None:
        await observe(
            self._database, endpoint.id, state, revision=endpoint.revision, last_error=error
        )


_NOT_YET_DEPLOYED = frozenset({_S.PENDING, _S.VALIDATING, _S.TRANSFERRING})
_DEADLINED = _NOT_YET_DEPLOYED | {_S.DEPLOYING, _S.VERIFYING}
