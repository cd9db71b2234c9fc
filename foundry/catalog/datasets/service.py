"""Resolving and listing datasets; `content` adds and reads them, `removal` deletes them."""

from dataclasses import dataclass
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.datasets.domain import (
    Reference,
)
from foundry.catalog.datasets.repository import DatasetRows, find_version
from foundry.catalog.datasets.repository import hold_version as hold_row
from foundry.catalog.datasets.tables import Dataset

# Other slices get their type of a version here: tables stay inside the slice.
from foundry.catalog.datasets.tables import DatasetVersion as DatasetVersion
from foundry.errors import NotFound
from foundry.governance.identity.domain import Principal
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import Database
from foundry.infra.objects import FileRef


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """The files of one version: `train.jsonl.zst` and `eval.jsonl.zst`.

    Attributes:
        eval_rows: 0: nothing is held out.
    """

    version_id: UUID
    digest: str
    files: tuple[FileRef, ...]
    eval_rows: int


@dataclass(frozen=True, slots=True)
class ListedDataset:
    """A dataset in a list.

    Attributes:
        latest: its newest version, without its files.
        versions: how many there are, without the deleted ones.
    """

    dataset: Dataset
    latest: DatasetVersion
    versions: int

    def __getattr__(self, name: str) -> object:
        return getattr(self.dataset, name)


class Datasets:
    """Datasets of the principal's project."""

    def __init__(self, db: AsyncSession, principal: Principal) -> None:
        self._db = db
        self._rows = DatasetRows(db, principal.tenant_id, principal.project_id)

    async def get(self, reference: str) -> DatasetVersion:
        """`name` (the newest version) or `name@N`, even a deleted one. Raises NotFound."""
        parsed = Reference.parse(reference)
        dataset = await self._rows.get(parsed.name)
        version = await self._rows.find_version(dataset.id, parsed.version) if dataset else None
        if version is None:
            raise missing_error(str(parsed))
        return version

    async def resolve(self, reference: str) -> DatasetVersion:
        """A version whose rows can be read; see `get`. Raises NotFound."""
        version = await self.get(reference)
        if version.deleted_at is not None:
            raise deleted_error(version)
        return version

    async def hold(self, reference: str) -> DatasetVersion:
        """A version that cannot be deleted before this transaction ends; see `resolve`."""
        return await hold_version(self._db, (await self.resolve(reference)).id)

    async def list_datasets(
        self, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ListedDataset]:
        """List datasets that have versions, by name."""
        after = decode(cursor, (str,))
        rows = await self._rows.list_page(cast(str, after[0]) if after else None, limit + 1)
        listed = [ListedDataset(dataset, latest, count) for dataset, latest, count in rows]
        return page_of(listed, limit, lambda each: (each.dataset.name,))

    async def list_versions(
        self, name: str, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[DatasetVersion]:
        """List versions, newest first, without the deleted ones."""
        dataset = await self._rows.get(name)
        if dataset is None:
            raise missing_error(name)
        after = decode(cursor, (int,), name)
        below = cast(int, after[0]) if after else None
        rows = await self._rows.list_versions(dataset.id, below, limit + 1)
        return page_of(rows, limit, lambda version: (version.number,), name)


async def hold_version(db: AsyncSession, version_id: UUID) -> DatasetVersion:
    """A readable version that cannot be deleted before this transaction ends. Raises NotFound."""
    return _require_readable(await hold_row(db, version_id), version_id)


async def load_dataset(database: Database, version_id: UUID) -> DatasetManifest:
    """The files of a version, for a worker that was told its id. Raises NotFound."""
    async with database.begin() as db:
        version = _require_readable(await find_version(db, version_id), version_id)
        return DatasetManifest(version.id, version.digest, version.files, version.eval_rows)


def _require_readable(version: DatasetVersion | None, version_id: UUID) -> DatasetVersion:
    if version is None:
        raise missing_error(str(version_id))
    if version.deleted_at is not None:
        raise deleted_error(version)
    return version


def missing_error(reference: str) -> NotFound:
    return NotFound(
        f"the dataset {reference[:160]} does not exist: `foundry datasets list` shows what there is"
    )


def deleted_error(version: DatasetVersion) -> NotFound:
    at = version.deleted_at
    assert at is not None
    return NotFound(
        f"{version.reference} was deleted by {version.deleted_by} at {at:%Y-%m-%d %H:%M} UTC: add "
        "its file again as a new version"
    )
