"""SQL of datasets."""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload, selectinload

from foundry.catalog.datasets.tables import Dataset, DatasetFile, DatasetVersion
from foundry.infra.ids import uuid7


def _with_files(query: Select[DatasetVersion]) -> Select[DatasetVersion]:
    return query.options(
        joinedload(DatasetVersion.dataset, innerjoin=True),
        selectinload(DatasetVersion.stored_files),
    )


async def find_version(db: AsyncSession, version_id: UUID) -> DatasetVersion | None:
    """For workers, which get ids from callers that were authorised."""
    query = _with_files(select(DatasetVersion).where(DatasetVersion.id == version_id))
    return (await db.execute(query)).scalar()


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

    async def ensure(self, name: str, created_by: str) -> tuple[Dataset, bool]:
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

    def _versions(self) -> Select[DatasetVersion]:
        return _with_files(
            select(DatasetVersion).where(
                DatasetVersion.tenant_id == self._tenant_id,
                DatasetVersion.project_id == self._project_id,
            )
        )

    async def version(self, dataset_id: UUID, number: int | None) -> DatasetVersion | None:
        """By number; None: the highest."""
        query = self._versions().where(DatasetVersion.dataset_id == dataset_id)
        if number is not None:
            query = query.where(DatasetVersion.number == number)
        query = query.order_by(DatasetVersion.number.desc()).limit(1)
        return (await self._db.execute(query)).scalar()

    async def by_digest(self, dataset_id: UUID, digest: str) -> DatasetVersion | None:
        query = self._versions().where(
            DatasetVersion.dataset_id == dataset_id, DatasetVersion.digest == digest
        )
        return (await self._db.execute(query)).scalar()

    async def next_number(self, dataset_id: UUID) -> int:
        query = select(func.max(DatasetVersion.number)).where(
            DatasetVersion.dataset_id == dataset_id
        )
        return ((await self._db.execute(query)).scalar() or 0) + 1

    async def page(self, after: str | None, limit: int) -> Sequence[Dataset]:
        query = select(Dataset).where(
            Dataset.tenant_id == self._tenant_id, Dataset.project_id == self._project_id
        )
        if after is not None:
            query = query.where(Dataset.name > after)
        return (await self._db.execute(query.order_by(Dataset.name).limit(limit))).scalars().all()

    async def versions_page(
        self, dataset_id: UUID, below: int | None, limit: int
    ) -> Sequence[DatasetVersion]:
        """Newest first."""
        query = self._versions().where(DatasetVersion.dataset_id == dataset_id)
        if below is not None:
            query = query.where(DatasetVersion.number < below)
        query = query.order_by(DatasetVersion.number.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()


async def list_known_keys(db: AsyncSession, keys: Collection[str]) -> set[str]:
    """Those of `keys` that belong to a version, of whatever tenant."""
    query = select(DatasetFile.object_key).where(DatasetFile.object_key.in_(keys))
    return set((await db.execute(query)).scalars())
