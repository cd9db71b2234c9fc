"""SQL of the registry. Every query is bound to one tenant."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from foundry.catalog.registry.domain import Stage, Version
from foundry.catalog.registry.tables import (
    Alias,
    AliasEvent,
    Blob,
    Model,
    ModelVersion,
    VersionFile,
    VersionMetric,
    VersionParent,
)
from foundry.infra.ids import uuid7

_ORDER = (ModelVersion.major, ModelVersion.minor, ModelVersion.patch, ModelVersion.pre_key)
_DESCENDING = tuple(column.desc() for column in _ORDER)
Edge = tuple[UUID, UUID, str]


class Versions:
    def __init__(self, db: AsyncSession, tenant_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id

    def _select_versions(self) -> Select[ModelVersion]:
        return (
            select(ModelVersion)
            .where(ModelVersion.tenant_id == self._tenant_id)
            .options(joinedload(ModelVersion.model, innerjoin=True))
        )

    async def _fetch_one(self, query: Select[ModelVersion]) -> ModelVersion | None:
        return (await self._db.execute(query.limit(1))).scalar()

    async def get(self, version_id: UUID) -> ModelVersion | None:
        return await self._fetch_one(self._select_versions().where(ModelVersion.id == version_id))

    @staticmethod
    async def get_of_any_tenant(db: AsyncSession, version_id: UUID) -> ModelVersion | None:
        """Load a version for a worker, whose authorised caller gave it the id."""
        query = select(ModelVersion).where(ModelVersion.id == version_id)
        return (await db.execute(query)).scalar()

    async def hold(self, version_id: UUID) -> ModelVersion | None:
        """Read it as it is now, and keep it from being tombstoned until we commit."""
        query = self._select_versions().where(ModelVersion.id == version_id)
        query = query.with_for_update(read=True, key_share=True, of=ModelVersion)
        return await self._fetch_one(query.execution_options(populate_existing=True))

    async def lock(self, version_id: UUID) -> ModelVersion | None:
        query = self._select_versions().where(ModelVersion.id == version_id)
        query = query.with_for_update(of=ModelVersion)
        return await self._fetch_one(query.execution_options(populate_existing=True))

    async def find_by_number(self, name: str, version: Version) -> ModelVersion | None:
        keys = tuple_(*_ORDER) == tuple_(*map(literal, version.sort_key))
        query = self._select_versions().join(Model, Model.id == ModelVersion.model_id)
        return await self._fetch_one(query.where(Model.name == name, keys))

    async def find_by_alias(self, name: str, alias: str) -> ModelVersion | None:
        query = (
            self._select_versions()
            .join(Model, Model.id == ModelVersion.model_id)
            .join(Alias, Alias.version_id == ModelVersion.id)
            .where(Model.name == name, Alias.name == alias, Alias.model_id == Model.id)
        )
        return await self._fetch_one(query)

    async def find_latest(self, name: str) -> ModelVersion | None:
        """The highest release that is ready."""
        query = (
            self._select_versions()
            .join(Model, Model.id == ModelVersion.model_id)
            .where(
                Model.name == name,
                ModelVersion.stage == Stage.READY,
                ModelVersion.pre_key == "~",
            )
            .order_by(*_DESCENDING)
        )
        return await self._fetch_one(query)

    async def find_highest(self, model_id: UUID) -> ModelVersion | None:
        query = self._select_versions().where(ModelVersion.model_id == model_id)
        return await self._fetch_one(query.order_by(*_DESCENDING))

    async def list_adapters(
        self, base_ids: Iterable[UUID], limit: int
    ) -> list[tuple[ModelVersion, str | None]]:
        query = (
            self._select_versions()
            .add_columns(Alias.name)
            .join(Model, Model.id == ModelVersion.model_id)
            .outerjoin(Alias, Alias.version_id == ModelVersion.id)
            .where(ModelVersion.base_version_id.in_(base_ids), ModelVersion.stage == Stage.READY)
            .order_by(Model.name, *_DESCENDING, Alias.name)
            .limit(limit)
        )
        return [(row[0], row[1]) for row in await self._db.execute(query)]

    async def find_of_job(self, job_id: UUID, digest: str) -> ModelVersion | None:
        query = self._select_versions().where(
            ModelVersion.job_id == job_id, ModelVersion.digest == digest
        )
        return await self._fetch_one(query)

    async def list_page(
        self, model_id: UUID, after: tuple[Any, ...] | None, limit: int
    ) -> Sequence[ModelVersion]:
        """List versions, the highest first."""
        query = self._select_versions().where(ModelVersion.model_id == model_id)
        if after is not None:
            query = query.where(tuple_(*_ORDER) < tuple_(*map(literal, after)))
        query = query.order_by(*_DESCENDING).limit(limit)
        return (await self._db.execute(query)).scalars().all()

    async def list_by_ids(self, ids: Iterable[UUID]) -> Sequence[ModelVersion]:
        query = self._select_versions().where(ModelVersion.id.in_(ids)).order_by(ModelVersion.id)
        return (await self._db.execute(query)).scalars().all()

    async def list_edges(self, ids: Iterable[UUID], *, down: bool) -> set[Edge]:
        """`(child, parent, relation)` of the edges that leave `ids` upwards or downwards."""
        wanted = list(ids)
        found: set[Edge] = set()
        for parent, relation in (
            (ModelVersion.parent_version_id, ModelVersion.relation),
            (ModelVersion.base_version_id, literal("base")),
        ):
            query = select(ModelVersion.id, parent, relation).where(
                ModelVersion.tenant_id == self._tenant_id,
                parent.is_not(None),
                (parent if down else ModelVersion.id).in_(wanted),
            )
            rows = await self._db.execute(query)
            found.update((child, above, kind) for child, above, kind in rows if above is not None)
        side = VersionParent.parent_id if down else VersionParent.child_id
        merges = select(
            VersionParent.child_id, VersionParent.parent_id, VersionParent.relation
        ).where(VersionParent.tenant_id == self._tenant_id, side.in_(wanted))
        found.update((row[0], row[1], row[2]) for row in await self._db.execute(merges))
        return found

    async def list_live(self, model_id: UUID, limit: int) -> Sequence[ModelVersion]:
        """Versions that are not deleted, youngest first: what was made from one comes before it."""
        query = self._select_versions().where(
            ModelVersion.model_id == model_id, ModelVersion.stage != Stage.TOMBSTONED
        )
        return (
            (await self._db.execute(query.order_by(ModelVersion.id.desc()).limit(limit)))
            .scalars()
            .all()
        )

    async def find_child(self, version_id: UUID) -> ModelVersion | None:
        """A version that still needs this one."""
        query = self._select_versions().where(
            or_(
                ModelVersion.parent_version_id == version_id,
                ModelVersion.base_version_id == version_id,
            ),
            ModelVersion.stage != Stage.TOMBSTONED,
        )
        return await self._fetch_one(query)

    async def find_trained_on(self, dataset_version_ids: Collection[UUID]) -> ModelVersion | None:
        """A version, not deleted, that was made from one of these versions of datasets."""
        query = self._select_versions().where(
            ModelVersion.dataset_version_id.in_(dataset_version_ids),
            ModelVersion.stage != Stage.TOMBSTONED,
        )
        return await self._fetch_one(query)

    async def find_alias(self, version_id: UUID) -> str | None:
        query = select(Alias.name).where(
            Alias.tenant_id == self._tenant_id, Alias.version_id == version_id
        )
        return (await self._db.execute(query.limit(1))).scalar()

    async def list_files(self, version_id: UUID) -> list[VersionFile]:
        query = (
            select(VersionFile)
            .where(VersionFile.tenant_id == self._tenant_id, VersionFile.version_id == version_id)
            .options(joinedload(VersionFile.blob, innerjoin=True))
            .order_by(VersionFile.path)
        )
        return list((await self._db.execute(query)).scalars())

    async def list_metrics(self, version_id: UUID) -> list[VersionMetric]:
        query = (
            select(VersionMetric)
            .where(
                VersionMetric.tenant_id == self._tenant_id, VersionMetric.version_id == version_id
            )
            .order_by(VersionMetric.name, VersionMetric.step)
        )
        return list((await self._db.execute(query)).scalars())


class Blobs:
    def __init__(self, db: AsyncSession, tenant_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id

    async def find_known(self, digests: Iterable[str]) -> dict[str, str]:
        """sha256 → object key of the blobs that are stored already."""
        query = select(Blob.sha256, Blob.object_key).where(
            Blob.tenant_id == self._tenant_id, Blob.state == "live", Blob.sha256.in_(digests)
        )
        return {row.sha256: row.object_key for row in await self._db.execute(query)}

    async def claim(self, sha256: str, size: int, object_key: str | None) -> Blob | None:
        """The live blob with one more reference, made if need be; None: there is no object yet."""
        if object_key is not None:
            await self._db.execute(
                insert(Blob)
                .values(
                    id=uuid7(),
                    tenant_id=self._tenant_id,
                    sha256=sha256,
                    size=size,
                    object_key=object_key,
                    refcount=0,
                )
                .on_conflict_do_nothing()
            )
        statement = (
            update(Blob)
            .where(Blob.tenant_id == self._tenant_id, Blob.sha256 == sha256, Blob.state == "live")
            .values(refcount=Blob.refcount + 1)
            .returning(Blob)
            .execution_options(populate_existing=True)
        )
        return (await self._db.execute(statement)).scalar()

    async def release(self, version_ids: Collection[UUID]) -> None:
        """Drop the references of versions' files, in the order of `claim`: no two ever deadlock."""
        used = (
            select(Blob.id, func.count())
            .join(VersionFile, VersionFile.blob_id == Blob.id)
            .where(
                VersionFile.tenant_id == self._tenant_id, VersionFile.version_id.in_(version_ids)
            )
            .group_by(Blob.id, Blob.sha256)
            .order_by(Blob.sha256)
        )
        for blob_id, count in (await self._db.execute(used)).all():
            await self._db.execute(
                update(Blob)
                .where(Blob.tenant_id == self._tenant_id, Blob.id == blob_id)
                .values(refcount=Blob.refcount - count)
            )


class UnusedBlobs:
    """Blobs of all tenants that no version refers to."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def mark_deleting(self, older_than_s: float, limit: int) -> None:
        """Let nobody claim them any more; what is registered again is uploaded again."""
        unused = (
            select(Blob.id)
            .where(
                Blob.state == "live",
                Blob.refcount == 0,
                Blob.created_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, older_than_s),
            )
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        await self._db.execute(update(Blob).where(Blob.id.in_(unused)).values(state="deleting"))

    async def list_deleting(self, skipped: Collection[UUID], limit: int) -> Sequence[Blob]:
        query = (
            select(Blob)
            .where(Blob.state == "deleting", Blob.id.not_in(skipped))
            .order_by(Blob.created_at)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()

    async def list_known_keys(self, keys: Collection[str]) -> set[str]:
        """Those of `keys` that belong to a blob whose object is not removed yet."""
        query = select(Blob.object_key).where(Blob.object_key.in_(keys), Blob.state != "deleted")
        return set((await self._db.execute(query)).scalars())

    async def mark_deleted(self, blob_id: UUID) -> None:
        """The row stays: files of tombstoned versions tell what they were."""
        await self._db.execute(update(Blob).where(Blob.id == blob_id).values(state="deleted"))


class AliasRows:
    def __init__(self, db: AsyncSession, tenant_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id

    async def get(self, model_id: UUID, name: str) -> Alias | None:
        query = (
            select(Alias)
            .where(
                Alias.tenant_id == self._tenant_id, Alias.model_id == model_id, Alias.name == name
            )
            .options(joinedload(Alias.target, innerjoin=True))
            .execution_options(populate_existing=True)
        )
        return (await self._db.execute(query)).scalar()

    async def create(self, alias: dict[str, Any]) -> bool:
        statement = (
            insert(Alias)
            .values(tenant_id=self._tenant_id, row_version=1, **alias)
            .on_conflict_do_nothing()
            .returning(Alias.name)
        )
        return (await self._db.execute(statement)).scalar() is not None

    async def move(self, model_id: UUID, name: str, to: UUID, expected: UUID) -> bool:
        statement = (
            update(Alias)
            .where(
                Alias.tenant_id == self._tenant_id,
                Alias.model_id == model_id,
                Alias.name == name,
                Alias.version_id == expected,
            )
            .values(version_id=to, row_version=Alias.row_version + 1, updated_at=func.now())
            .returning(Alias.row_version)
        )
        return (await self._db.execute(statement)).scalar() is not None

    async def remove(self, alias: Alias) -> None:
        await self._db.delete(alias)
        await self._db.flush()

    async def find_last_event(self, model_id: UUID, alias: str) -> AliasEvent | None:
        query = (
            select(AliasEvent)
            .where(
                AliasEvent.tenant_id == self._tenant_id,
                AliasEvent.model_id == model_id,
                AliasEvent.alias == alias,
            )
            .order_by(AliasEvent.id.desc())
            .limit(1)
        )
        return (await self._db.execute(query)).scalar()
