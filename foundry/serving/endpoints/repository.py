"""SQL of endpoints. Every change of state names the states it may come from."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.serving.endpoints.domain import RESTING, SERVING, EndpointState
from foundry.serving.endpoints.tables import Endpoint

_SETTLED = RESTING | {EndpointState.FAILED}


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

    async def serialise(self, base_digest: str) -> None:
        """Until commit, nobody else creates or deploys an engine of this base."""
        key = func.hashtextextended(f"endpoint:{base_digest}", 0)
        await self._db.execute(select(func.pg_advisory_xact_lock(key)))

    async def next_revision(self, base_digest: str) -> int:
        """Over all tenants: the revision is part of the engine's name, which the cluster shares."""
        query = select(func.max(Endpoint.revision)).where(Endpoint.base_digest == base_digest)
        return ((await self._db.execute(query)).scalar() or 0) + 1

    async def get(self, endpoint_id: UUID, *, lock: bool = False) -> Endpoint | None:
        query = select(Endpoint).where(*self._mine, Endpoint.id == endpoint_id)
        if lock:
            query = query.with_for_update().execution_options(populate_existing=True)
        return (await self._db.execute(query)).scalar()

    async def of_version(self, version_id: UUID) -> Endpoint | None:
        query = select(Endpoint).where(
            Endpoint.tenant_id == self._tenant_id,
            Endpoint.state != EndpointState.DELETED,
            Endpoint.model_version_id == version_id,
        )
        return (await self._db.execute(query)).scalar()

    async def named(self, name: str) -> Endpoint | None:
        query = select(Endpoint).where(*self._mine, Endpoint.name == name)
        return (await self._db.execute(query)).scalar()

    async def serving(self, limit: int) -> Sequence[Endpoint]:
        query = select(Endpoint).where(*self._mine, Endpoint.state.in_(SERVING))
        return (await self._db.execute(query.order_by(Endpoint.id).limit(limit))).scalars().all()

    async def page(self, before: UUID | None, limit: int) -> Sequence[Endpoint]:
        """Newest first."""
        query = select(Endpoint).where(*self._mine)
        if before is not None:
            query = query.where(Endpoint.id < before)
        query = query.order_by(Endpoint.id.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()


class Observations:
    """What the supervisor reads and writes; across tenants."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def unsettled(self, limit: int) -> Sequence[Endpoint]:
        query = select(Endpoint).where(
            Endpoint.state != EndpointState.DELETED, Endpoint.state.not_in(_SETTLED)
        )
        return (await self._db.execute(query.order_by(Endpoint.id).limit(limit))).scalars().all()

    async def lock(self, endpoint_id: UUID) -> Endpoint | None:
        query = select(Endpoint).where(Endpoint.id == endpoint_id).with_for_update()
        return (await self._db.execute(query)).scalar()
