"""Resolving and listing datasets; `content` adds and reads them."""

from dataclasses import dataclass
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.datasets.domain import (
    Reference,
)
from foundry.catalog.datasets.repository import DatasetRows, find_version
from foundry.catalog.datasets.tables import Dataset, DatasetVersion
from foundry.errors import NotFound
from foundry.governance.identity.domain import Principal
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import Database
from foundry.infra.objects import FileRef


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """The files of one version: `train.jsonl.zst` and `eval.jsonl.zst`."""

    version_id: UUID
    digest: str
    files: tuple[FileRef, ...]


class Datasets:
    """Datasets of the principal's project."""

    def __init__(self, db: AsyncSession, principal: Principal) -> None:
        self._rows = DatasetRows(db, principal.tenant_id, principal.project_id)

    async def resolve(self, reference: str) -> DatasetVersion:
        """`name` (the newest version) or `name@N`. Raises NotFound."""
        parsed = Reference.parse(reference)
        dataset = await self._rows.get(parsed.name)
        found = await self._rows.version(dataset.id, parsed.version) if dataset else None
        if found is None:
            raise _missing(reference)
        return found

    async def list_datasets(
        self, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[Dataset]:
        after = decode(cursor, (str,))
        rows = await self._rows.page(cast(str, after[0]) if after else None, limit + 1)
        return page_of(rows, limit, lambda dataset: (dataset.name,))

    async def list_versions(
        self, name: str, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[DatasetVersion]:
        dataset = await self._rows.get(name)
        if dataset is None:
            raise _missing(name)
        after = decode(cursor, (int,), name)
        below = cast(int, after[0]) if after else None
        rows = await self._rows.versions_page(dataset.id, below, limit + 1)
        return page_of(rows, limit, lambda version: (version.number,), name)


async def load_dataset(database: Database, version_id: UUID) -> DatasetManifest:
    """The files of a version, for a worker that was told its id. Raises NotFound."""
    async with database.begin() as db:
        version = await find_version(db, version_id)
        if version is None:
            raise _missing(str(version_id))
        return DatasetManifest(version.id, version.digest, version.files)


def _missing(reference: str) -> NotFound:
    return NotFound(
        f"the dataset {reference[:160]} does not exist: `foundry datasets list` shows what there is"
    )
