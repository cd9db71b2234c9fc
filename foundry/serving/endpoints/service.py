"""Endpoints as their owners see them; `routing` and `supervision` are the other two sides."""

from collections.abc import Mapping
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.service import Registry
from foundry.config import ServingSettings
from foundry.errors import Conflict, NotFound
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.answers import Answer
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import utcnow
from foundry.serving.endpoints.checking import EngineCheck
from foundry.serving.endpoints.configuring import (
    Configuring,
    PlannedDeploy,
    next_options,
    plan_deploy,
)
from foundry.serving.endpoints.creating import Creating
from foundry.serving.endpoints.domain import (
    PENDING_S,
    SERVING,
    STARTING,
    EndpointSnapshot,
    EndpointState,
    RevisionDiff,
    ServedModel,
    Target,
    app_name,
    config_digest,
    states_before,
)
from foundry.serving.endpoints.repository import EndpointRows, RevisionRows
from foundry.serving.endpoints.routing import Routing
from foundry.serving.endpoints.schemas import EndpointConfigure
from foundry.serving.endpoints.supervision import list_unsettled_endpoints
from foundry.serving.endpoints.tables import Endpoint, EndpointRevision
from foundry.serving.recommendations.searching import CurrentLearnt, learn_nothing
from foundry.serving.recommendations.service import (
    Approved,
    Recommendations,
    find_prediction,
    record_prediction,
)

__all__ = [
    "EndpointSnapshot",
    "Endpoints",
    "Routing",
    "ServedModel",
    "Target",
    "list_unsettled_endpoints",
]


class Endpoints:
    """Endpoints of the principal's project: this writes what is desired, never what is."""

    def __init__(
        self,
        db: AsyncSession,
        audit: AuditTrail,
        principal: Principal,
        registry: Registry,
        learnt: CurrentLearnt = learn_nothing,
        check: EngineCheck | None = None,
        serving: ServingSettings | None = None,
    ) -> None:
        """Remember whose endpoints these are.

        Args:
            check: of configurations; None: only of what holds everywhere.
            serving: what holds where a configuration says nothing; None: as shipped.
        """
        self._db = db
        self._learnt = learnt
        self._engine_check = check or EngineCheck()
        self._serving = serving or ServingSettings()
        self._audit = audit
        self._principal = principal
        self._registry = registry
        self._rows = EndpointRows(db, principal.tenant_id, principal.project_id)
        self._revisions = RevisionRows(db)

    async def create(
        self, model: str, *, name: str | None = None, config: dict[str, object] | None = None
    ) -> Answer[Endpoint]:
        """Make an endpoint of a model's base, or find the one that is there.

        Without a name it is the base's one, made if there is none; with a name it is the one of
        that name, so a base may have several side by side.

        Raises:
            ModelNotFound: the model does not exist.
            Conflict: the name belongs to another base's endpoint, or there is one with other
                options than these.
            InvalidConfiguration: no engine can be configured so; lists every reason.
            InvalidRequest: the endpoint would not serve the adapter.
        """
        creating = Creating(
            self._rows,
            self._audit,
            self._principal,
            self._registry,
            self._engine_check,
            self._serving,
        )
        return await creating.create(model, name, config or {})

    async def get(self, endpoint_id: UUID) -> Endpoint:
        """An endpoint of the project. Raises NotFound."""
        return _found(await self._rows.get(endpoint_id), endpoint_id)

    async def list_endpoints(
        self,
        *,
        reference: str | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[Endpoint]:
        """Newest first.

        Args:
            reference: a name, or the beginning of an id.
        """
        after = decode(cursor, (UUID,), str(reference))
        place = cast(UUID, after[0]) if after else None
        rows = await self._rows.list_page(reference, place, limit + 1)
        return page_of(rows, limit, lambda endpoint: (endpoint.id,), str(reference))

    async def configure(
        self, endpoint_id: UUID, wanted: EndpointConfigure, recommendations: Recommendations
    ) -> Endpoint:
        """Store how the next deploy is to serve it. See `Configuring.configure`."""
        endpoint = _found(await self._rows.get(endpoint_id, lock=True), endpoint_id)
        configuring = Configuring(self._db, self._audit, recommendations)
        return await configuring.configure(endpoint, wanted)

    async def deploy(self, endpoint_id: UUID, reviewed: UUID | None = None) -> Answer[Endpoint]:
        """Ask for it to run with what was configured last; one that runs so is left alone.

        Args:
            reviewed: the recommendation that the caller approves; None: the stored one.
        Raises:
            Conflict: it is being stopped or deleted, or its recommendation cannot be applied.
            ModelNotFound: its model was deleted.
        """
        endpoint = await self._locked(endpoint_id)
        planned = await plan_deploy(self._db, self._principal, endpoint, reviewed, self._learnt)
        if planned is None and endpoint.state in STARTING | SERVING:
            return Answer(endpoint, f"the endpoint {endpoint.name} is {endpoint.state} already")
        prediction = await self._choose_prediction(endpoint, planned)
        config = planned.config if planned is not None else endpoint.config
        await self._begin(endpoint, config, prediction, "deploy")
        if planned is not None:
            endpoint.config_generation += 1
            endpoint.next_config = endpoint.recommendation_id = None
            await self._db.flush()
        return Answer(endpoint)

    async def rollback(self, endpoint_id: UUID, number: int) -> Answer[Endpoint]:
        """Ask for the configuration of an earlier revision to run again, as a new revision.

        To the revision that serves it ends the update that is under way; else it changes nothing.

        Raises:
            NotFound: there is no such revision.
            Conflict: the endpoint is being stopped or deleted.
        """
        endpoint = await self._locked(endpoint_id)
        revision = await self._revision(endpoint, number)
        if endpoint.serving_revision == number and endpoint.desired == "running":
            return await self._stay(endpoint, number)
        prediction = await self._find_prediction(endpoint, number)
        config = {**revision.config, "replicas": revision.replicas}
        if revision.config.get("replicas", 1) == revision.replicas:
            config = revision.config
        await self._begin(endpoint, config, prediction, "rollback", to=number)
        return Answer(endpoint)

    async def scale(self, endpoint_id: UUID, replicas: int) -> Answer[Endpoint]:
        """Ask for so many replicas, now and from the next deploy on.

        Raises:
            Conflict: the endpoint is being deleted.
            InvalidConfiguration: the cluster has no room for them.
        """
        endpoint = await self._locked(endpoint_id)
        if endpoint.state == EndpointState.DELETING:
            raise Conflict(f"endpoint {endpoint.name} is being deleted", state=endpoint.state)
        numbers = {endpoint.serving_revision, endpoint.target_revision} - {None}
        if await self._has_replicas(endpoint, cast(set[int], numbers), replicas):
            return Answer(endpoint, f"the endpoint {endpoint.name} has replicas {replicas} already")
        config = {**endpoint.config, "replicas": replicas}
        base = await self._registry.hold(endpoint.model_version_id)
        await self._engine_check.check(self._registry, base, config)
        before: dict[str, object] = {"replicas": endpoint.config.get("replicas", 1)}
        await self._revisions.scale(endpoint.id, cast(set[int], numbers), replicas)
        endpoint.config = config
        if endpoint.next_config is not None and "replicas" in endpoint.next_config:
            endpoint.next_config = {**endpoint.next_config, "replicas": replicas}
        await self._written(endpoint)
        await self._audit.record(
            "endpoint.scale",
            "endpoint",
            str(endpoint.id),
            before=before,
            after={"replicas": replicas},
        )
        return Answer(endpoint)

    async def _has_replicas(self, endpoint: Endpoint, numbers: set[int], replicas: int) -> bool:
        """Whether so many are wanted already, of what runs and of the next deploy."""
        options = (endpoint.config, next_options(endpoint))
        if any(each.get("replicas", 1) != replicas for each in options):
            return False
        return not await self._revisions.differ_in_replicas(endpoint.id, numbers, replicas)

    async def list_revisions(
        self, endpoint_id: UUID, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[EndpointRevision]:
        """Newest first."""
        endpoint = await self.get(endpoint_id)
        after = decode(cursor, (int,), str(endpoint_id))
        before = cast(int, after[0]) if after else None
        rows = await self._revisions.list_page(endpoint.id, before, limit + 1)
        return page_of(rows, limit, lambda each: (each.number,), str(endpoint_id))

    async def diff(self, endpoint_id: UUID, before: int, after: int) -> RevisionDiff:
        """What `after` is configured differently from `before`. Raises NotFound."""
        endpoint = await self.get(endpoint_id)
        older = await self._revision(endpoint, before)
        newer = await self._revision(endpoint, after)
        return RevisionDiff.of(before, after, older.config, newer.config)

    async def stop(self, endpoint_id: UUID, *, now: bool = False) -> Answer[Endpoint]:
        """Ask for it to drain and release what it holds; one that rests is left alone.

        Args:
            now: cut its running requests off, also those of a stop that is under way.
        """
        endpoint = _found(await self._rows.get(endpoint_id, lock=True), endpoint_id)
        hastens = now and endpoint.state == EndpointState.STOPPING
        if not hastens and endpoint.state not in states_before(EndpointState.STOPPING):
            return Answer(endpoint, _describe_rest(endpoint))
        await self._revisions.release(endpoint.id, now=now)
        await self._desire(endpoint, "stopped", EndpointState.STOPPING, now=now)
        return Answer(endpoint)

    async def delete(self, endpoint_id: UUID, *, now: bool = False) -> Answer[Endpoint]:
        """Ask for it to stop and to be forgotten. Args: now: as of `stop`."""
        endpoint = _found(await self._rows.get(endpoint_id, lock=True), endpoint_id)
        if endpoint.state == EndpointState.DELETING and not now:
            return Answer(endpoint, f"the endpoint {endpoint.name} is being deleted already")
        await self._revisions.release(endpoint.id, now=now)
        await self._desire(endpoint, "deleted", EndpointState.DELETING, now=now)
        return Answer(endpoint)

    async def _begin(
        self,
        endpoint: Endpoint,
        config: Mapping[str, object],
        prediction: Approved | None,
        how: str,
        **details: object,
    ) -> None:
        """A new revision becomes the target; what serves goes on until the new one does."""
        if endpoint.state in (EndpointState.STOPPING, EndpointState.DELETING):
            raise Conflict(
                f"endpoint {endpoint.name} is {endpoint.state}: wait until that is done, or end "
                f"its running requests with `foundry endpoints stop {endpoint.name} --now`",
                state=endpoint.state,
            )
        base = await self._registry.hold(endpoint.model_version_id)
        await self._engine_check.check(self._registry, base, config)
        revision = await self._add_revision(endpoint, config)
        serving = endpoint.serving_revision
        await self._revisions.retire(endpoint.id, keep=[revision.number, *filter(None, [serving])])
        endpoint.target_revision, endpoint.last_error = revision.number, None
        state = EndpointState.UPDATING
        if serving is None:
            state = EndpointState.PENDING
            endpoint.app_name, endpoint.config = revision.app_name, dict(config)
        details |= {"how": how, "revision": revision.number, "config": dict(config)}
        await self._desire(endpoint, "running", state, **details)
        if prediction is not None:
            await record_prediction(
                self._db, endpoint.tenant_id, endpoint.id, revision.number, prediction
            )

    async def _stay(self, endpoint: Endpoint, number: int) -> Answer[Endpoint]:
        """End an update: the revision that serves is the one that is wanted."""
        if endpoint.target_revision == number:
            return Answer(
                endpoint, f"revision {number} of the endpoint {endpoint.name} serves already"
            )
        await self._revisions.retire(endpoint.id, keep=[number])
        endpoint.target_revision, endpoint.last_error = number, None
        serving = await self._revision(endpoint, number)
        state = EndpointState.RUNNING if serving.state == "READY" else EndpointState.DEGRADED
        await self._desire(endpoint, "running", state, how="rollback", revision=number)
        return Answer(endpoint)

    async def _add_revision(
        self, endpoint: Endpoint, config: Mapping[str, object]
    ) -> EndpointRevision:
        number = await self._revisions.next_number(endpoint.base_digest)
        revision = EndpointRevision(
            endpoint_id=endpoint.id,
            number=number,
            tenant_id=endpoint.tenant_id,
            base_digest=endpoint.base_digest,
            app_name=app_name(endpoint.base_digest, number),
            config=dict(config),
            config_digest=config_digest(endpoint.base_digest, config),
            replicas=cast(int, config.get("replicas", 1)),
            created_by=self._principal.subject,
        )
        await self._revisions.add(revision, PENDING_S)
        return revision

    async def _desire(
        self, endpoint: Endpoint, desired: str, state: EndpointState, **details: object
    ) -> None:
        before: dict[str, object] = {"desired": endpoint.desired, "state": endpoint.state}
        endpoint.desired, endpoint.state = desired, state.value
        endpoint.progress = {}
        await self._written(endpoint)
        after: dict[str, object] = {"desired": desired, "state": state, **details}
        await self._audit.record(
            f"endpoint.{desired}", "endpoint", str(endpoint.id), before=before, after=after
        )

    async def _written(self, endpoint: Endpoint) -> None:
        """Whoever decided on the endpoint as it was decides again."""
        endpoint.version += 1
        endpoint.updated_at = utcnow()
        await self._db.flush()

    async def _locked(self, endpoint_id: UUID) -> Endpoint:
        """The endpoint, which nobody else changes before this transaction ends."""
        endpoint = await self.get(endpoint_id)
        await self._rows.lock_base(endpoint.base_digest)
        return _found(await self._rows.get(endpoint_id, lock=True), endpoint_id)

    async def _revision(self, endpoint: Endpoint, number: int) -> EndpointRevision:
        revision = await self._revisions.get(endpoint.id, number)
        if revision is None:
            raise NotFound(
                f"endpoint {endpoint.name} has no revision {number}: "
                f"`foundry endpoints revisions {endpoint.name}` lists them",
                param="revision",
            )
        return revision

    async def _choose_prediction(
        self, endpoint: Endpoint, planned: PlannedDeploy | None
    ) -> Approved | None:
        """Of the next revision: an unchanged configuration keeps what was predicted of it."""
        if planned is not None:
            return planned.prediction
        return await self._find_prediction(endpoint, endpoint.revision)

    async def _find_prediction(self, endpoint: Endpoint, number: int) -> Approved | None:
        row = await find_prediction(self._db, endpoint.id, number)
        if row is None:
            return None
        return Approved(
            recommendation_id=row.recommendation_id,
            configuration=row.configuration,
            workload=row.workload,
            predicted=row.predicted,
            model_version=row.model_version,
        )


def _found(endpoint: Endpoint | None, endpoint_id: UUID) -> Endpoint:
    if endpoint is None:
        raise NotFound(f"there is no endpoint {endpoint_id}: `foundry endpoints list` shows yours")
    return endpoint


def _describe_rest(endpoint: Endpoint) -> str:
    """Why there is nothing to stop."""
    if endpoint.state in (EndpointState.CREATED, EndpointState.CONFIGURED):
        return f"the endpoint {endpoint.name} was not deployed, so there is nothing to stop"
    doing = "is being stopped" if endpoint.state == EndpointState.STOPPING else "is stopped"
    if endpoint.state == EndpointState.DELETING:
        doing = "is being deleted"
    return f"the endpoint {endpoint.name} {doing} already"
