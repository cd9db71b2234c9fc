"""SQL of datasets."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import Row, Select, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, contains_eager, joinedload, selectinload

from foundry.catalog.datasets.tables import Dataset, DatasetFile, DatasetVersion
from foundry.infra.ids import uuid7


def _include_files(query: Select[DatasetVersion]) -> Select[DatasetVersion]:
    return query.options(
        joinedload(DatasetVersion.dataset, innerjoin=True),
        selectinload(DatasetVersion.stored_files),
    )


async def find_version(db: AsyncSession, version_id: UUID) -> DatasetVersion | None:
    """Load a version for workers, which get ids from callers that were authorised."""
    query = _include_files(select(DatasetVersion).where(DatasetVersion.id == version_id))
    return (await db.execute(query)).scalar()


async def hold_version(db: AsyncSession, version_id: UUID) -> DatasetVersion | None:
    """Read it as it is now, and keep it from being deleted until we commit."""
    query = _include_files(select(DatasetVersion).where(DatasetVersion.id == version_id))
    query = query.with_for_update(read=True, key_share=True, of=DatasetVersion)
    return (await db.execute(query.execution_options(populate_existing=True))).scalar()


class DatasetRows:
    """Datasets of one project."""

    def __init__(self, db: AsyncSession, tenant_id: UUID, project_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id
        self._project_id = project_id

    async def get(self, name: str, *, lock: bool = False) -> Dataset | None:
        query = select(Dataset).where(
            Dataset.tenant_id == self._tenant_id,
            Dataset.project_id == self._project_id,
            Dataset.name == name,
        )
        return (await self._db.execute(query.with_for_update() if lock else query)).scalar()

    async def ensure_dataset(self, name: str, created_by: str) -> tuple[Dataset, bool]:
        """The dataset, locked, so that its versions are numbered one by one."""
        statement = (
            insert(Dataset)
            .values(
                id=uuid7(),
                tenant_id=self._tenant_id,
                project_id=self._project_id,
                name=name,
                created_by=created_by,
            )
            .on_conflict_do_nothing()
            .returning(Dataset.id)
        )
        created = (await self._db.execute(statement)).scalar() is not None
        found = await self.get(name, lock=True)
        assert found is not None
        return found, created

    def _select_versions(self) -> Select[DatasetVersion]:
        return _include_files(
            select(DatasetVersion).where(
                DatasetVersion.tenant_id == self._tenant_id,
                DatasetVersion.project_id == self._project_id,
            )
        )

    async def find_version(self, dataset_id: UUID, number: int | None) -> DatasetVersion | None:
        """A version by number, deleted or not; None: the highest that is not deleted."""
        query = self._select_versions().where(DatasetVersion.dataset_id == dataset_id)
        if number is None:
            query = query.where(DatasetVersion.deleted_at.is_(None))
        else:
            query = query.where(DatasetVersion.number == number)
        query = query.order_by(DatasetVersion.number.desc()).limit(1)
        return (await self._db.execute(query)).scalar()

    async def lock_live(
        self, dataset_id: UUID, number: int | None, limit: int
    ) -> Sequence[DatasetVersion]:
        """Versions that are not deleted, the lowest first, until we commit; None: of any number."""
        query = self._select_versions().where(
            DatasetVersion.dataset_id == dataset_id, DatasetVersion.deleted_at.is_(None)
        )
        if number is not None:
            query = query.where(DatasetVersion.number == number)
        query = query.order_by(DatasetVersion.number).limit(limit)
        query = query.with_for_update(of=DatasetVersion)
        query = query.execution_options(populate_existing=True)
        return (await self._db.execute(query)).scalars().all()

    async def find_by_digest(self, dataset_id: UUID, digest: str) -> DatasetVersion | None:
        """The version of these bytes that is not deleted."""
        query = self._select_versions().where(
            DatasetVersion.dataset_id == dataset_id,
            DatasetVersion.digest == digest,
            DatasetVersion.deleted_at.is_(None),
        )
        return (await self._db.execute(query)).scalar()

    async def choose_next_number(self, dataset_id: UUID) -> int:
        """Deleted versions keep theirs."""
        query = select(func.max(DatasetVersion.number)).where(
            DatasetVersion.dataset_id == dataset_id
        )
        return ((await self._db.execute(query)).scalar() or 0) + 1

    async def list_page(
        self, after: str | None, limit: int
    ) -> Sequence[Row[Dataset, DatasetVersion, int]]:
        """Datasets by name that have versions, the newest of each, and how many there are."""
        of_dataset = (
            DatasetVersion.dataset_id == Dataset.id,
            DatasetVersion.deleted_at.is_(None),
        )
        lateral = (
            select(DatasetVersion)
            .where(*of_dataset)
            .order_by(DatasetVersion.number.desc())
            .limit(1)
            .lateral()
        )
        newest = aliased(DatasetVersion, lateral)
        count = select(func.count()).select_from(DatasetVersion).where(*of_dataset)
        query = (
            select(Dataset, newest, count.scalar_subquery())
            .join(newest, true())
            .options(contains_eager(newest.dataset))
            .where(Dataset.tenant_id == self._tenant_id, Dataset.project_id == self._project_id)
        )
        if after is not None:
            query = query.where(Dataset.name > after)
        return (await self._db.execute(query.order_by(Dataset.name).limit(limit))).all()

    async def list_versions(
        self, dataset_id: UUID, below: int | None, limit: int
    ) -> Sequence[DatasetVersion]:
        """List versions, newest first, without the deleted ones."""
        query = self._select_versions().where(
            DatasetVersion.dataset_id == dataset_id, DatasetVersion.deleted_at.is_(None)
        )
        if below is not None:
            query = query.where(DatasetVersion.number < below)
        query = query.order_by(DatasetVersion.number.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()


class DeletedVersions:
    """Deleted versions of all tenants whose objects are not removed yet."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def list_uncollected(
        self, older_than_s: float, skipped: Collection[UUID], limit: int
    ) -> Sequence[DatasetVersion]:
        """List versions with their files, the longest deleted first."""
        query = (
            select(DatasetVersion)
            .where(
                DatasetVersion.deleted_at
                < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, older_than_s),
                DatasetVersion.collected_at.is_(None),
                DatasetVersion.id.not_in(skipped),
            )
            .options(selectinload(DatasetVersion.stored_files))
            .order_by(DatasetVersion.deleted_at)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()

    async def mark_collected(self, version_id: UUID) -> None:
        """The rows of the files stay: they tell what the version was."""
        await self._db.execute(
            update(DatasetVersion)
            .where(DatasetVersion.id == version_id)
            .values(collected_at=func.now())
        )


async def list_known_keys(db: AsyncSession, keys: Collection[str]) -> set[str]:
    """Those of `keys` that belong to a version whose objects are kept, of whatever tenant."""
    query = (
        select(DatasetFile.object_key)
        .join(DatasetVersion, DatasetVersion.id == DatasetFile.version_id)
        .where(DatasetFile.object_key.in_(keys), DatasetVersion.collected_at.is_(None))
    )
    return set((await db.execute(query)).scalars())


async def list_references(
    db: AsyncSession, tenant_id: UUID, project_id: UUID, ids: Collection[UUID]
) -> dict[UUID, str]:
    """`name@number` of versions."""
    query = (
        select(DatasetVersion.id, Dataset.name, DatasetVersion.number)
        .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
        .where(
            DatasetVersion.tenant_id == tenant_id,
            DatasetVersion.project_id == project_id,
            DatasetVersion.id.in_(ids),
        )
    )
    return {row[0]: f"{row[1]}@{row[2]}" for row in await db.execute(query)}
