"""The supervisor's side of endpoints: desired rows out, observations in."""

from typing import cast
from uuid import UUID

from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal, Role
from foundry.infra.database import Database, utcnow
from foundry.serving.endpoints.domain import Desired, EndpointSnapshot, EndpointState, sources
from foundry.serving.endpoints.repository import Observations
from foundry.serving.endpoints.tables import Endpoint

_BATCH = 1000
_MAX_ERROR_CHARS = 4096


async def unsettled(database: Database, limit: int = _BATCH) -> list[EndpointSnapshot]:
    """Endpoints that run, or are on their way somewhere; each pass looks at all of them.

    Those that rest (created, stopped, deleted, failed) wait for the next call of the API.
    """
    async with database.begin() as db:
        return [snapshot(endpoint) for endpoint in await Observations(db).unsettled(limit)]


async def observe(
    database: Database,
    endpoint_id: UUID,
    state: EndpointState,
    *,
    revision: int,
    last_error: str | None = None,
    progress: dict[str, object] | None = None,
) -> bool:
    """Record what was seen of one revision. False: the endpoint has moved on, nothing changed.

    The same state again only refreshes `last_error` and `progress`.
    """
    async with database.begin() as db:
        rows = Observations(db)
        endpoint = await rows.lock(endpoint_id)
        if endpoint is None or endpoint.revision != revision:
            return False
        before = endpoint.state
        if before != state and before not in sources(state):
            return False
        endpoint.state = state.value
        endpoint.last_error = last_error[:_MAX_ERROR_CHARS] if last_error else None
        endpoint.progress = progress or {}
        endpoint.updated_at = utcnow()
        await db.flush()
        if before != state:
            await AuditTrail(db, _supervisor(endpoint), "").record(
                "endpoint.state",
                "endpoint",
                str(endpoint_id),
                before={"state": before},
                after={"state": state, "revision": revision, "last_error": endpoint.last_error},
            )
        return True


def snapshot(endpoint: Endpoint) -> EndpointSnapshot:
    return EndpointSnapshot(
        id=endpoint.id,
        tenant_id=endpoint.tenant_id,
        project_id=endpoint.project_id,
        name=endpoint.name,
        model_version_id=endpoint.model_version_id,
        desired=cast(Desired, endpoint.desired),
        state=EndpointState(endpoint.state),
        app_name=endpoint.app_name,
        revision=endpoint.revision,
        config=dict(endpoint.config),
        config_generation=endpoint.config_generation,
        previous_app_name=endpoint.previous_app_name,
    )


def _supervisor(endpoint: Endpoint) -> Principal:
    return Principal(
        tenant_id=endpoint.tenant_id,
        project_id=endpoint.project_id,
        subject="supervisor",
        subject_type="system",
        credential_id="",
        role=Role.MEMBER,
    )
