"""SQL of tenants, projects and keys."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.governance.identity.domain import EVERYTHING, Role
from foundry.governance.identity.tables import ApiKey, Project, Tenant
from foundry.infra.ids import uuid7

_REVOCATION_LOCK = 0x6B657973
_WORKS: tuple[ColumnElement[bool], ...] = (
    ApiKey.revoked_at.is_(None),
    ApiKey.expires_at > func.now(),
)
_ADMINISTERS: tuple[ColumnElement[bool], ...] = (
    ApiKey.role == Role.ADMIN,
    ApiKey.asked_scopes.contains(sorted(EVERYTHING)),
)


async def find_key(db: AsyncSession, key_id: str) -> ApiKey | None:
    """Find a key by its public id alone: the tenant is what the key is going to tell us."""
    return await db.get(ApiKey, key_id)


async def find_administrator_key(db: AsyncSession) -> ApiKey | None:
    """One of any tenant that works now and may create others, as far as its row tells."""
    query = select(ApiKey).where(*_WORKS, *_ADMINISTERS)
    return (await db.execute(query.order_by(ApiKey.created_at).limit(1))).scalar()


async def ensure_tenant(db: AsyncSession, name: str) -> UUID:
    await db.execute(insert(Tenant).values(id=uuid7(), name=name).on_conflict_do_nothing())
    return (await db.execute(select(Tenant.id).where(Tenant.name == name))).scalar_one()


async def ensure_project(db: AsyncSession, tenant_id: UUID, name: str) -> UUID:
    await db.execute(
        insert(Project).values(id=uuid7(), tenant_id=tenant_id, name=name).on_conflict_do_nothing()
    )
    query = select(Project.id).where(Project.tenant_id == tenant_id, Project.name == name)
    return (await db.execute(query)).scalar_one()


class Keys:
    """Keys of one tenant."""

    def __init__(self, db: AsyncSession, tenant_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id

    def add(self, key: ApiKey) -> None:
        self._db.add(key)

    async def get(self, key_id: str, *, lock: bool = False) -> ApiKey | None:
        query = select(ApiKey).where(ApiKey.tenant_id == self._tenant_id, ApiKey.id == key_id)
        return (await self._db.execute(query.with_for_update() if lock else query)).scalar()

    async def list_page(
        self, subject: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> Sequence[ApiKey]:
        """List keys, newest first; `subject` None: everybody's."""
        query = select(ApiKey).where(ApiKey.tenant_id == self._tenant_id)
        if subject is not None:
            query = query.where(ApiKey.subject == subject)
        if after is not None:
            query = query.where(tuple_(ApiKey.created_at, ApiKey.id) < tuple_(*after))
        query = query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()

    async def list_namesakes(self, name: str, limit: int) -> Sequence[str]:
        """Ids of the keys of a name that work now, newest first."""
        query = select(ApiKey.id).where(*self._match_working(), ApiKey.name == name)
        query = query.order_by(ApiKey.created_at.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()

    async def find_other_administrator(self, key_id: str) -> ApiKey | None:
        """A key that could take over when `key_id` is revoked.

        Until this transaction ends no other looks: two revocations at once would each find the
        key that the other revokes.
        """
        lock = func.pg_advisory_xact_lock(_REVOCATION_LOCK, func.hashtext(str(self._tenant_id)))
        await self._db.execute(select(lock))
        query = select(ApiKey).where(*self._match_working(), *_ADMINISTERS, ApiKey.id != key_id)
        return (await self._db.execute(query.limit(1))).scalar()

    def _match_working(self) -> tuple[ColumnElement[bool], ...]:
        return (ApiKey.tenant_id == self._tenant_id, *_WORKS)

    async def now(self) -> datetime:
        """The database's clock, by which keys expire."""
        return (await self._db.execute(select(func.now()))).scalar_one()
