"""Endpoints as their owners see them; `routing` and `supervision` are the other two sides."""

from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.errors import Conflict, NotFound
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import utcnow
from foundry.serving.endpoints.configuring import Change, Configuring, change_of
from foundry.serving.endpoints.domain import (
    SERVING,
    STARTING,
    EndpointSnapshot,
    EndpointState,
    ServedModel,
    Target,
    app_name,
    sources,
)
from foundry.serving.endpoints.repository import EndpointRows
from foundry.serving.endpoints.routing import Routing
from foundry.serving.endpoints.schemas import EndpointConfigure
from foundry.serving.endpoints.supervision import observe, snapshot, unsettled
from foundry.serving.endpoints.tables import Endpoint
from foundry.serving.recommendations.searching import CurrentLearnt, nothing_learnt
from foundry.serving.recommendations.service import (
    Approved,
    Recommendations,
    predicted,
    record_prediction,
)

__all__ = [
    "EndpointSnapshot",
    "EndpointUse",
    "Endpoints",
    "Routing",
    "ServedModel",
    "Target",
    "observe",
    "snapshot",
    "unsettled",
]


class Endpoints:
    """Endpoints of the principal's project: this writes what is desired, never what is."""

    def __init__(
        self,
        db: AsyncSession,
        audit: AuditTrail,
        principal: Principal,
        registry: Registry,
        learnt: CurrentLearnt = nothing_learnt,
    ) -> None:
        self._db = db
        self._learnt = learnt
        self._audit = audit
        self._principal = principal
        self._registry = registry
        self._rows = EndpointRows(db, principal.tenant_id, principal.project_id)

    async def create(
        self, model: str, *, name: str | None = None, config: dict[str, object] | None = None
    ) -> tuple[Endpoint, bool]:
        """The endpoint of a model's base, made if there is none. Returns it and whether it is new.

        Raises:
            ModelNotFound: the model does not exist.
            Conflict: the name belongs to another base's endpoint.
        """
        base = await self._base_of(model)
        await self._rows.serialise(base.digest)
        if existing := await self._rows.of_version(base.id):
            if existing.project_id != self._principal.project_id:
                raise Conflict(f"{base.reference} has an endpoint in another project already")
            return existing, False
        endpoint = Endpoint(
            tenant_id=self._principal.tenant_id,
            project_id=self._principal.project_id,
            name=await self._free_name(name, base),
            model_version_id=base.id,
            model_reference=base.reference,
            base_digest=base.digest,
            app_name=app_name(base.digest, 0),
            config=config or {},
            created_by=self._principal.subject,
        )
        await self._rows.add(endpoint)
        after: dict[str, object] = {"name": endpoint.name, "model": base.reference}
        await self._audit.record("endpoint.create", "endpoint", str(endpoint.id), after=after)
        return endpoint, True

    async def get(self, endpoint_id: UUID) -> Endpoint:
        """Raises NotFound."""
        return _found(await self._rows.get(endpoint_id), endpoint_id)

    async def list_endpoints(
        self, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[Endpoint]:
        after = decode(cursor, (UUID,))
        rows = await self._rows.page(cast(UUID, after[0]) if after else None, limit + 1)
        return page_of(rows, limit, lambda endpoint: (endpoint.id,))

    async def configure(
        self, endpoint_id: UUID, wanted: EndpointConfigure, recommendations: Recommendations
    ) -> Endpoint:
        """Store how the next deploy is to serve it. See `Configuring.configure`."""
        endpoint = _found(await self._rows.get(endpoint_id, lock=True), endpoint_id)
        configuring = Configuring(self._db, self._audit, recommendations)
        return await configuring.configure(endpoint, wanted)

    async def deploy(self, endpoint_id: UUID, reviewed: UUID | None = None) -> Endpoint:
        """Ask for it to run with what was configured last; one that runs so is left alone.

        Args:
            reviewed: the recommendation that the caller approves; None: the stored one.
        Raises:
            Conflict: it is being stopped or deleted, or its recommendation cannot be applied.
            ModelNotFound: its model was deleted.
        """
        endpoint = _found(await self._rows.get(endpoint_id), endpoint_id)
        await self._rows.serialise(endpoint.base_digest)
        endpoint = _found(await self._rows.get(endpoint_id, lock=True), endpoint_id)
        change = await change_of(self._db, self._principal, endpoint, reviewed, self._learnt)
        runs = endpoint.state in STARTING | SERVING
        if change is None and runs:
            return endpoint
        await self._registry.hold(endpoint.model_version_id)
        prediction = await self._prediction(endpoint, change)
        revision = await self._rows.next_revision(endpoint.base_digest)
        endpoint.last_error = None
        endpoint = await self._desire(
            endpoint,
            "running",
            EndpointState.PENDING,
            revision=revision,
            app_name=app_name(endpoint.base_digest, revision),
            previous_app_name=endpoint.app_name if runs else None,
            **_applied(endpoint, change),
        )
        if prediction is not None:
            await record_prediction(self._db, endpoint.tenant_id, endpoint.id, revision, prediction)
        return endpoint

    async def stop(self, endpoint_id: UUID) -> Endpoint:
        """Ask for it to drain and release what it holds; one that rests is left alone."""
        endpoint = _found(await self._rows.get(endpoint_id, lock=True), endpoint_id)
        if endpoint.state not in sources(EndpointState.STOPPING):
            return endpoint
        return await self._desire(endpoint, "stopped", EndpointState.STOPPING)

    async def delete(self, endpoint_id: UUID) -> Endpoint:
        """Ask for it to stop and to be forgotten."""
        endpoint = _found(await self._rows.get(endpoint_id, lock=True), endpoint_id)
        if endpoint.state == EndpointState.DELETING:
            return endpoint
        return await self._desire(endpoint, "deleted", EndpointState.DELETING)

    async def _desire(
        self, endpoint: Endpoint, desired: str, state: EndpointState, **values: object
    ) -> Endpoint:
        if endpoint.state not in sources(state):
            raise Conflict(
                f"endpoint {endpoint.name} is {endpoint.state}: wait until that is done",
                state=endpoint.state,
            )
        before: dict[str, object] = {"desired": endpoint.desired, "state": endpoint.state}
        endpoint.desired, endpoint.state = desired, state.value
        endpoint.progress, endpoint.updated_at = {}, utcnow()
        for name, value in values.items():
            setattr(endpoint, name, value)
        await self._db.flush()
        after: dict[str, object] = {"desired": desired, "state": state, **values}
        await self._audit.record(
            f"endpoint.{desired}", "endpoint", str(endpoint.id), before=before, after=after
        )
        return endpoint

    async def _prediction(self, endpoint: Endpoint, change: Change | None) -> Approved | None:
        """Of the next revision: an unchanged configuration keeps what was predicted of it."""
        if change is not None:
            return change.prediction
        row = await predicted(self._db, endpoint.id, endpoint.revision)
        if row is None:
            return None
        return Approved(
            recommendation_id=row.recommendation_id,
            configuration=row.configuration,
            workload=row.workload,
            predicted=row.predicted,
            model_version=row.model_version,
        )

    async def _base_of(self, model: str) -> ModelVersion:
        version = await self._registry.resolve(model)
        if version.kind == "adapter" and version.base_version_id is not None:
            return await self._registry.hold(version.base_version_id)
        return await self._registry.hold(version.id)

    async def _free_name(self, wanted: str | None, base: ModelVersion) -> str:
        candidates = [wanted] if wanted else [base.name, f"{base.name}-{base.version}"[:128]]
        for candidate in candidates:
            if await self._rows.named(candidate) is None:
                return candidate
        raise Conflict(
            f"an endpoint is called {candidates[0]} already: choose another name", param="name"
        )


class EndpointUse:
    """Tells the registry which versions engines need."""

    def __init__(self, db: AsyncSession, principal: Principal) -> None:
        self._rows = EndpointRows(db, principal.tenant_id, principal.project_id)

    async def user_of(self, version_id: UUID) -> str | None:
        endpoint = await self._rows.of_version(version_id)
        return f"the endpoint {endpoint.name}" if endpoint else None


def endpoint_use(db: AsyncSession, principal: Principal) -> EndpointUse:
    """The registry's guard of versions that an endpoint of the principal's project serves."""
    return EndpointUse(db, principal)


def _applied(endpoint: Endpoint, change: Change | None) -> dict[str, object]:
    if change is None:
        return {}
    return {
        "config": change.config,
        "config_generation": endpoint.config_generation + 1,
        "next_config": None,
        "recommendation_id": None,
    }


def _found(endpoint: Endpoint | None, endpoint_id: UUID) -> Endpoint:
    if endpoint is None:
        raise NotFound(f"there is no endpoint {endpoint_id}: `foundry endpoints list` shows yours")
    return endpoint
