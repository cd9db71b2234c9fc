"""The supervisor's side of endpoints: desired rows out, observations in.

A change is recorded only under the supervisor's lease and only if nothing was written to the
endpoint since it was read: a decision on old facts changes nothing and is made again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import LeaseLost
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal, Role
from foundry.infra.database import Database, utcnow
from foundry.serving.endpoints.domain import (
    Desired,
    EndpointChange,
    EndpointSnapshot,
    EndpointState,
    RevisionDesired,
    RevisionSnapshot,
    RevisionState,
    Strategy,
    states_before,
)
from foundry.serving.endpoints.repository import Observations, SupervisorLeases
from foundry.serving.endpoints.tables import Endpoint, EndpointRevision

_BATCH = 500
_MAX_ERROR_CHARS = 4096
_LEASE = "supervisor"


@dataclass(frozen=True, slots=True)
class Fence:
    """The lease under which a supervisor writes."""

    token: int


async def list_unsettled_endpoints(
    database: Database, applications: Collection[str] = ()
) -> list[EndpointSnapshot]:
    """Endpoints that run, or are on their way somewhere; each pass looks at all of them.

    Those that rest (created, stopped, deleted, failed) wait for the next call of the API.

    Args:
        applications: of the cluster; their revisions are read whatever their state.
    """
    async with database.begin() as db:
        rows, found, after = Observations(db), list[EndpointSnapshot](), None
        while True:
            endpoints = await rows.list_unsettled(after, _BATCH)
            found += await _snapshots(rows, endpoints, applications)
            if len(endpoints) < _BATCH:
                return found
            after = endpoints[-1].id


async def read_endpoint(
    database: Database, endpoint_id: UUID, applications: Collection[str]
) -> EndpointSnapshot | None:
    """One endpoint with every revision whose application the cluster has."""
    async with database.begin() as db:
        rows = Observations(db)
        endpoint = await rows.get(endpoint_id)
        if endpoint is None:
            return None
        (snapshot,) = await _snapshots(rows, [endpoint], applications)
        return snapshot


async def list_wanted_applications(database: Database) -> set[str]:
    """Names of the engine applications that the rows account for."""
    async with database.begin() as db:
        return await Observations(db).list_wanted_applications()


async def take_lease(database: Database, holder: str, ttl_s: float) -> Fence | None:
    """Become or stay the one supervisor that acts. None: another is."""
    async with database.begin() as db:
        token = await SupervisorLeases(db, _LEASE).take(holder, ttl_s)
        return Fence(token) if token is not None else None


async def give_up_lease(database: Database, holder: str) -> None:
    """Let the next supervisor begin at once."""
    async with database.begin() as db:
        await SupervisorLeases(db, _LEASE).give_up(holder)


async def record_change(
    database: Database, before: EndpointSnapshot, change: EndpointChange, fence: Fence
) -> bool:
    """Record what follows from `before`. False: it was written to meanwhile, nothing changed.

    Raises:
        LeaseLost: another supervisor acts.
    """
    async with database.begin() as db:
        if not await SupervisorLeases(db, _LEASE).holds(fence.token):
            raise LeaseLost("another supervisor has taken over")
        rows = Observations(db)
        endpoint = await rows.get(before.id, lock=True)
        if endpoint is None or endpoint.version != before.version:
            return False
        old = EndpointState(endpoint.state)
        if change.state != old and old not in states_before(change.state):
            raise ValueError(f"no way leads from {old} to {change.state}")
        for each in change.revisions:
            revision = await db.get_one(EndpointRevision, (endpoint.id, each.number))
            await rows.write(revision, each)
        await _write(db, endpoint, change)
        if change.state != old or change.serving != before.serving:
            await _record_audit(db, before, change)
        return True


async def _write(db: AsyncSession, endpoint: Endpoint, change: EndpointChange) -> None:
    endpoint.state = change.state.value
    endpoint.serving_revision, endpoint.target_revision = change.serving, change.target
    endpoint.fallback_revision = change.fallback
    endpoint.last_error = change.last_error[:_MAX_ERROR_CHARS] if change.last_error else None
    if (reached := change.serving or change.target) is not None:
        revision = await db.get_one(EndpointRevision, (endpoint.id, reached))
        endpoint.app_name = revision.app_name
        endpoint.config = {**revision.config, **_scaled(revision)}
    for each in change.revisions:
        if each.number == change.target:
            endpoint.progress = each.progress
    endpoint.version += 1
    endpoint.updated_at = utcnow()
    await db.flush()


def _scaled(revision: EndpointRevision) -> dict[str, object]:
    """The replicas that it was scaled to, unless its configuration says the same."""
    same = revision.config.get("replicas", 1) == revision.replicas
    return {} if same else {"replicas": revision.replicas}


async def _record_audit(db: AsyncSession, before: EndpointSnapshot, change: EndpointChange) -> None:
    await AuditTrail(db, _supervisor(before), "").record(
        "endpoint.state",
        "endpoint",
        str(before.id),
        before={"state": before.state, "serving_revision": before.serving},
        after={
            "state": change.state,
            "revision": change.serving or change.target,
            "serving_revision": change.serving,
            "last_error": change.last_error,
        },
    )


async def _snapshots(
    rows: Observations, endpoints: Sequence[Endpoint], applications: Collection[str] = ()
) -> list[EndpointSnapshot]:
    revisions: dict[UUID, list[RevisionSnapshot]] = {each.id: [] for each in endpoints}
    for revision, overdue, crashes in await rows.list_revisions(endpoints, applications):
        found = _revision(revision, overdue=overdue, crashes=crashes)
        revisions[revision.endpoint_id].append(found)
    return [_snapshot(each, tuple(revisions[each.id])) for each in endpoints]


def _snapshot(endpoint: Endpoint, revisions: tuple[RevisionSnapshot, ...]) -> EndpointSnapshot:
    return EndpointSnapshot(
        id=endpoint.id,
        tenant_id=endpoint.tenant_id,
        project_id=endpoint.project_id,
        name=endpoint.name,
        model_version_id=endpoint.model_version_id,
        desired=cast(Desired, endpoint.desired),
        state=EndpointState(endpoint.state),
        app_name=endpoint.app_name,
        config=dict(endpoint.config),
        config_generation=endpoint.config_generation,
        version=endpoint.version,
        serving=endpoint.serving_revision,
        target=endpoint.target_revision,
        fallback=endpoint.fallback_revision,
        last_error=endpoint.last_error,
        revisions=revisions,
    )


def _revision(revision: EndpointRevision, *, overdue: bool, crashes: int) -> RevisionSnapshot:
    return RevisionSnapshot(
        number=revision.number,
        app_name=revision.app_name,
        config=dict(revision.config),
        config_digest=revision.config_digest,
        replicas=revision.replicas,
        applied_replicas=revision.applied_replicas,
        desired=cast(RevisionDesired, revision.desired),
        state=RevisionState(revision.state),
        strategy=cast(Strategy | None, revision.strategy),
        reason=revision.reason,
        progress=dict(revision.progress),
        overdue=overdue,
        crashes=crashes,
    )


def _supervisor(endpoint: EndpointSnapshot) -> Principal:
    return Principal(
        tenant_id=endpoint.tenant_id,
        project_id=endpoint.project_id,
        subject="supervisor",
        subject_type="system",
        credential_id="",
        role=Role.MEMBER,
    )
