"""Converges engines on the rows of endpoints."""

import time
from collections.abc import Callable
from functools import partial
from uuid import UUID

from foundry.errors import DatabaseUnavailable, EngineFailed, FoundryError
from foundry.infra.database import Database
from foundry.serving.endpoints.domain import EndpointSnapshot, EndpointState
from foundry.serving.endpoints.service import observe, unsettled
from foundry.supervisor.ports import EngineHost
from foundry.supervisor.tasks import KeyedTasks

_S = EndpointState
_NOT_YET_DEPLOYED = frozenset({_S.PENDING, _S.VALIDATING, _S.TRANSFERRING})
_DEADLINED = _NOT_YET_DEPLOYED | {_S.DEPLOYING, _S.VERIFYING}


class EndpointReconciler:
    """Moves every endpoint that is not at rest one step per pass."""

    def __init__(
        self,
        database: Database,
        engines: EngineHost,
        engine_start_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._engines = engines
        self._engine_start_timeout_s = engine_start_timeout_s
        self._clock = clock
        self.tasks = KeyedTasks("endpoint", clock=clock)
        self._starting_since: dict[UUID, float] = {}

    async def reconcile(self) -> None:
        """One pass: offer a step for each endpoint."""
        pending = await unsettled(self._database)
        alive = {endpoint.id for endpoint in pending if endpoint.state in _DEADLINED}
        since = self._starting_since
        for endpoint_id in [each for each in since if each not in alive]:
            del since[endpoint_id]
        self.tasks.keep_only({endpoint.id for endpoint in pending})
        for endpoint in pending:
            self.tasks.offer(endpoint.id, partial(self._step, endpoint))

    async def _step(self, endpoint: EndpointSnapshot) -> None:
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
            self._starting_since[endpoint.id] = self._clock()
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
        began = self._starting_since.setdefault(endpoint.id, self._clock())
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
