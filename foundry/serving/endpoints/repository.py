"""SQL of endpoints, of their revisions and of the lease under which they are observed."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Row, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.infra.database import utcnow
from foundry.infra.references import match_reference
from foundry.serving.endpoints.domain import (
    CRASH_WINDOW_S,
    RESTING,
    SERVING,
    EndpointState,
    RevisionChange,
    RevisionState,
)
from foundry.serving.endpoints.tables import Endpoint, EndpointRevision, SupervisorLease

_SETTLED = RESTING | {EndpointState.FAILED}
_GONE = (RevisionState.REMOVED, RevisionState.FAILED)


class EndpointRows:
    """Endpoints of one project."""

    def __init__(self, db: AsyncSession, tenant_id: UUID, project_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id
        self._mine = (
            Endpoint.tenant_id == tenant_id,
            Endpoint.project_id == project_id,
            Endpoint.state != EndpointState.DELETED,
        )

    async def add(self, endpoint: Endpoint) -> None:
        self._db.add(endpoint)
        await self._db.flush()

    async def lock_base(self, base_digest: str) -> None:
        """Until commit, nobody else creates or deploys an engine of this base."""
        key = func.hashtextextended(f"endpoint:{base_digest}", 0)
        await self._db.execute(select(func.pg_advisory_xact_lock(key)))

    async def get(self, endpoint_id: UUID, *, lock: bool = False) -> Endpoint | None:
        query = select(Endpoint).where(*self._mine, Endpoint.id == endpoint_id)
        if lock:
            query = query.with_for_update().execution_options(populate_existing=True)
        return (await self._db.execute(query)).scalar()

    async def find_of_version(self, version_id: UUID) -> Endpoint | None:
        """The project's endpoint that answers for a base: one that serves, else the oldest."""
        query = (
            select(Endpoint)
            .where(*self._mine, Endpoint.model_version_id == version_id)
            .order_by(Endpoint.state.not_in(SERVING), Endpoint.id)
            .limit(1)
        )
        return (await self._db.execute(query)).scalar()

    async def find_user_of_versions(self, version_ids: Collection[UUID]) -> Endpoint | None:
        """Any endpoint of the tenant that needs one of the bases: versions belong to tenants."""
        query = (
            select(Endpoint)
            .where(
                Endpoint.tenant_id == self._tenant_id,
                Endpoint.state != EndpointState.DELETED,
                Endpoint.model_version_id.in_(version_ids),
            )
            .order_by(Endpoint.id)
            .limit(1)
        )
        return (await self._db.execute(query)).scalar()

    async def find_by_name(self, name: str) -> Endpoint | None:
        query = select(Endpoint).where(*self._mine, Endpoint.name == name)
        return (await self._db.execute(query)).scalar()

    async def list_serving(self, limit: int) -> Sequence[Endpoint]:
        query = select(Endpoint).where(*self._mine, Endpoint.state.in_(SERVING))
        return (await self._db.execute(query.order_by(Endpoint.id).limit(limit))).scalars().all()

    async def list_page(
        self, reference: str | None, before: UUID | None, limit: int
    ) -> Sequence[Endpoint]:
        """Newest first."""
        query = select(Endpoint).where(*self._mine)
        if reference is not None:
            query = query.where(match_reference(reference, Endpoint.id, Endpoint.name))
        if before is not None:
            query = query.where(Endpoint.id < before)
        query = query.order_by(Endpoint.id.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()


class RevisionRows:
    """Revisions of endpoints."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def add(self, revision: EndpointRevision, allowed_s: float) -> None:
        """Insert a revision that waits to be begun.

        Args:
            allowed_s: how long it may wait.
        """
        revision.deadline_at = _from_now(allowed_s)
        self._db.add(revision)
        await self._db.flush()
        await self._db.refresh(revision)

    async def next_number(self, base_digest: str) -> int:
        """Over all tenants: the number is part of the engine's name, which the cluster shares."""
        newest = func.max(EndpointRevision.number)
        query = select(newest).where(EndpointRevision.base_digest == base_digest)
        return ((await self._db.execute(query)).scalar() or 0) + 1

    async def get(self, endpoint_id: UUID, number: int) -> EndpointRevision | None:
        return await self._db.get(EndpointRevision, (endpoint_id, number))

    async def list_page(
        self, endpoint_id: UUID, before: int | None, limit: int
    ) -> Sequence[EndpointRevision]:
        """Newest first."""
        query = select(EndpointRevision).where(EndpointRevision.endpoint_id == endpoint_id)
        if before is not None:
            query = query.where(EndpointRevision.number < before)
        query = query.order_by(EndpointRevision.number.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()

    async def differ_in_replicas(
        self, endpoint_id: UUID, numbers: Collection[int], replicas: int
    ) -> bool:
        """Whether one of these revisions has another number of replicas."""
        query = (
            select(EndpointRevision.number)
            .where(
                EndpointRevision.endpoint_id == endpoint_id,
                EndpointRevision.number.in_(list(numbers)),
                EndpointRevision.replicas != replicas,
            )
            .limit(1)
        )
        return (await self._db.execute(query)).scalar() is not None

    async def retire(self, endpoint_id: UUID, *, keep: Collection[int] = ()) -> None:
        """Ask for every revision but those kept to be removed."""
        await self._db.execute(
            update(EndpointRevision)
            .where(
                EndpointRevision.endpoint_id == endpoint_id,
                EndpointRevision.desired == "running",
                EndpointRevision.number.not_in(list(keep)),
            )
            .values(desired="removed", updated_at=func.now())
        )

    async def release(self, endpoint_id: UUID, *, now: bool) -> None:
        """Ask for every revision to be removed.

        Args:
            now: their time is over; else it begins anew when the supervisor drains them.
        """
        await self._db.execute(
            update(EndpointRevision)
            .where(
                EndpointRevision.endpoint_id == endpoint_id,
                EndpointRevision.state.not_in(_GONE),
            )
            .values(
                desired="removed",
                deadline_at=func.now() if now else None,
                progress={},
                updated_at=func.now(),
            )
        )

    async def scale(self, endpoint_id: UUID, numbers: Collection[int], replicas: int) -> None:
        await self._db.execute(
            update(EndpointRevision)
            .where(
                EndpointRevision.endpoint_id == endpoint_id,
                EndpointRevision.number.in_(list(numbers)),
            )
            .values(replicas=replicas, updated_at=func.now())
        )


class Observations:
    """What the supervisor reads and writes; across tenants."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def list_unsettled(self, after: UUID | None, limit: int) -> Sequence[Endpoint]:
        """In order of id."""
        query = select(Endpoint).where(
            Endpoint.state != EndpointState.DELETED, Endpoint.state.not_in(_SETTLED)
        )
        if after is not None:
            query = query.where(Endpoint.id > after)
        return (await self._db.execute(query.order_by(Endpoint.id).limit(limit))).scalars().all()

    async def get(self, endpoint_id: UUID, *, lock: bool = False) -> Endpoint | None:
        query = select(Endpoint).where(Endpoint.id == endpoint_id)
        if lock:
            query = query.with_for_update()
        return (await self._db.execute(query)).scalar()

    async def list_revisions(
        self, endpoints: Sequence[Endpoint], applications: Collection[str] = ()
    ) -> Sequence[Row[EndpointRevision, bool, int]]:
        """Those that matter still, oldest first: each, whether it is overdue, and recent crashes.

        Args:
            applications: that the cluster has; their revisions matter whatever their state.
        """
        fallbacks = {each.fallback_revision for each in endpoints} - {None}
        query = select(
            EndpointRevision,
            func.coalesce(EndpointRevision.deadline_at <= func.now(), False),
            case((_crashing(), EndpointRevision.crashes), else_=0),
        ).where(
            EndpointRevision.endpoint_id.in_([each.id for each in endpoints]),
            or_(
                EndpointRevision.desired == "running",
                EndpointRevision.state.not_in(_GONE),
                EndpointRevision.number.in_(list(fallbacks)),
                EndpointRevision.app_name.in_(list(applications)),
            ),
        )
        return (await self._db.execute(query.order_by(EndpointRevision.number))).all()

    async def write(self, revision: EndpointRevision, change: RevisionChange) -> None:
        revision.state, revision.desired = change.state.value, change.desired
        revision.reason, revision.progress = change.reason, change.progress
        revision.applied_replicas = change.applied_replicas
        if change.strategy is not None:
            revision.strategy = change.strategy
        if not change.keep_deadline:
            wanted = None if change.allowed_s is None else _from_now(change.allowed_s)
            revision.deadline_at = wanted
        if change.crashed:
            recent = _crashing()
            revision.crashes = case((recent, EndpointRevision.crashes + 1), else_=1)
            revision.crashing_since = case(
                (recent, EndpointRevision.crashing_since), else_=func.now()
            )
        revision.updated_at = utcnow()
        await self._db.flush()

    async def list_wanted_applications(self) -> set[str]:
        query = select(EndpointRevision.app_name).where(
            or_(
                EndpointRevision.desired == "running",
                EndpointRevision.state == RevisionState.DRAINING,
            )
        )
        return set((await self._db.execute(query)).scalars())


class SupervisorLeases:
    """At most one holder of a name; each new one has a larger token."""

    def __init__(self, db: AsyncSession, name: str) -> None:
        self._db = db
        self._name = name

    async def take(self, holder: str, ttl_s: float) -> int | None:
        """Take or renew it. Returns the token; None: another holds it."""
        new = insert(SupervisorLease).values(
            name=self._name, holder=holder, token=1, expires_at=_from_now(ttl_s)
        )
        mine = SupervisorLease.holder == new.excluded.holder
        query = new.on_conflict_do_update(
            index_elements=[SupervisorLease.name],
            set_={
                "holder": new.excluded.holder,
                "expires_at": new.excluded.expires_at,
                "token": case((mine, SupervisorLease.token), else_=SupervisorLease.token + 1),
            },
            where=or_(mine, SupervisorLease.expires_at <= func.now()),
        ).returning(SupervisorLease.token)
        return (await self._db.execute(query)).scalar()

    async def holds(self, token: int) -> bool:
        """Also keeps any other from taking it before this transaction ends."""
        query = (
            select(SupervisorLease.token)
            .where(
                SupervisorLease.name == self._name,
                SupervisorLease.token == token,
                SupervisorLease.expires_at > func.now(),
            )
            .with_for_update(read=True)
        )
        return (await self._db.execute(query)).scalar() is not None

    async def give_up(self, holder: str) -> None:
        await self._db.execute(
            update(SupervisorLease)
            .where(SupervisorLease.name == self._name, SupervisorLease.holder == holder)
            .values(expires_at=func.now())
        )


def _crashing() -> ColumnElement[bool]:
    """Whether the window that began with the first crash still goes on."""
    return EndpointRevision.crashing_since > func.now() - timedelta(seconds=CRASH_WINDOW_S)


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=seconds)
