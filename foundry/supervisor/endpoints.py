"""Converges engines on the rows of endpoints: carries out what `decisions` says."""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol
from uuid import UUID

from foundry.errors import EngineFailed, InvalidRequest, NotFound, ResourceExhausted
from foundry.infra.database import Database
from foundry.serving.endpoints import supervision
from foundry.serving.endpoints.domain import (
    APP_PREFIX,
    EndpointChange,
    EndpointSnapshot,
    RevisionSnapshot,
)
from foundry.supervisor.changes import (
    apply_count,
    apply_transfer,
    apply_validation,
    fail_revision,
    refuse_scale,
    switch_to_revision,
)
from foundry.supervisor.decisions import Effect, Limits, Step, choose_next_step
from foundry.supervisor.lease import Lease
from foundry.supervisor.ports import EngineHost, EngineObservation
from foundry.supervisor.tasks import KeyedTasks

log = logging.getLogger(__name__)

# From PENDING to DEPLOYING without waiting for the next pass, and a few more.
_STEPS_AT_ONCE = 8
# Between the two looks after which an application that no row knows is removed.
UNKNOWN_S = 60.0
# Trying again would find the same; all else (Ray, PostgreSQL) may pass and is tried until the
# deadline of the revision's state.
_FINAL = (EngineFailed, InvalidRequest, NotFound, ResourceExhausted)


class EndpointStore(Protocol):
    """The rows of endpoints."""

    async def list_unsettled(self, applications: frozenset[str]) -> list[EndpointSnapshot]: ...

    async def read(
        self, endpoint_id: UUID, applications: frozenset[str]
    ) -> EndpointSnapshot | None: ...

    async def record(self, before: EndpointSnapshot, change: EndpointChange) -> bool:
        """False: the endpoint was written to since `before` was read."""

    async def list_wanted_applications(self) -> set[str]: ...


class LeasedRows:
    """The rows in PostgreSQL, written under a lease."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    async def list_unsettled(self, applications: frozenset[str]) -> list[EndpointSnapshot]:
        return await supervision.list_unsettled_endpoints(self._database, applications)

    async def read(
        self, endpoint_id: UUID, applications: frozenset[str]
    ) -> EndpointSnapshot | None:
        # Before every step: what follows may be an effect on the cluster.
        await self._lease.confirm()
        return await supervision.read_endpoint(self._database, endpoint_id, applications)

    async def record(self, before: EndpointSnapshot, change: EndpointChange) -> bool:
        fence = self._lease.fence()
        return await supervision.record_change(self._database, before, change, fence)

    async def list_wanted_applications(self) -> set[str]:
        # What is not among them is removed.
        await self._lease.confirm()
        return await supervision.list_wanted_applications(self._database)


class EndpointReconciler:
    """Moves every endpoint that is not as desired, each in a task of its own."""

    def __init__(
        self,
        store: EndpointStore,
        engines: EngineHost,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._engines = engines
        self._limits = limits
        self._clock = clock
        self.tasks = KeyedTasks("endpoint", clock=clock)
        self._unknown_since: dict[str, float] = {}

    async def reconcile(self) -> None:
        """One pass: offer each endpoint a step, and the removal of what none knows."""
        seen = await self._engines.observe()
        endpoints = await self._store.list_unsettled(frozenset(seen))
        self.tasks.keep_only({endpoint.id for endpoint in endpoints} | seen.keys())
        for endpoint in endpoints:
            self.tasks.offer(endpoint.id, partial(self._act_on, endpoint, seen), endpoint.wish)
        await self._remove_unknown(endpoints, seen)

    async def _act_on(
        self, endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation]
    ) -> None:
        # In the task, so that an endpoint which cannot be decided on holds up no other; by what
        # the pass has read, so that one at rest costs no call.
        if choose_next_step(endpoint, seen, self._limits) is not None:
            await self._converge(endpoint.id)

    async def _converge(self, endpoint_id: UUID) -> None:
        """Steps of one endpoint until it has to wait."""
        last: Step | None = None
        for _ in range(_STEPS_AT_ONCE):
            seen = await self._engines.observe()
            endpoint = await self._store.read(endpoint_id, frozenset(seen))
            if endpoint is None:
                return
            step = choose_next_step(endpoint, seen, self._limits)
            if step is None or step == last or not await self._carry_out(endpoint, step):
                return
            last = step

    async def _carry_out(self, endpoint: EndpointSnapshot, step: Step) -> bool:
        """Do one step. Returns whether another may follow at once."""
        revision = endpoint.find_revision(step.number)
        change = step.change
        if step.effect is not None:
            assert revision is not None
            try:
                change = await self._perform(step, endpoint, revision)
            except _FINAL as error:
                if step.effect is Effect.DEPLOY and step.number == endpoint.serving:
                    # Deploying what serves is a scale: its engine answers as it did before.
                    if (told := refuse_scale(endpoint, error.message)) is not None:
                        await self._store.record(endpoint, told)
                    # For the task, which waits longer each time.
                    raise
                change = fail_revision(endpoint, revision, error.message)
        if change is None:
            return step.effect is Effect.DELETE_NOW
        return await self._store.record(endpoint, change)

    async def _perform(
        self, step: Step, endpoint: EndpointSnapshot, revision: RevisionSnapshot
    ) -> EndpointChange | None:
        engines = self._engines
        match step.effect:
            case Effect.VALIDATE:
                return apply_validation(
                    endpoint, revision, await engines.validate(endpoint, revision)
                )
            case Effect.TRANSFER:
                return apply_transfer(
                    endpoint, revision, await engines.transfer(endpoint, revision)
                )
            case Effect.VERIFY:
                await engines.verify(endpoint, revision)
                return switch_to_revision(endpoint, revision)
            case Effect.DEPLOY:
                await engines.deploy(endpoint, revision)
            case Effect.COUNT:
                return apply_count(
                    endpoint, revision, await engines.count_requests(revision.app_name)
                )
            case Effect.DELETE:
                await engines.delete(revision.app_name)
            case Effect.DELETE_NOW:
                await engines.delete(revision.app_name, now=True)
        return step.change

    async def _remove_unknown(
        self, endpoints: list[EndpointSnapshot], seen: Mapping[str, EngineObservation]
    ) -> None:
        """Offer the removal of engines that no row has known for a minute."""
        names = {each.app_name for endpoint in endpoints for each in endpoint.revisions}
        unknown = {name for name in seen if name.startswith(APP_PREFIX)} - names
        if unknown:
            unknown -= await self._store.list_wanted_applications()
        since = self._unknown_since
        for name in since.keys() - unknown:
            del since[name]
        for name in unknown:
            if self._clock() - since.setdefault(name, self._clock()) >= UNKNOWN_S:
                self.tasks.offer(name, partial(self._engines.delete, name))
