"""Adding, resolving and reading datasets."""

import asyncio
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.datasets.domain import (
    EVAL_FILE,
    TRAIN_FILE,
    AddOptions,
    Reference,
    Split,
    check_name,
)
from foundry.catalog.datasets.preparation import Prepared, prepare
from foundry.catalog.datasets.repository import DatasetRows, find_version
from foundry.catalog.datasets.shards import read_rows
from foundry.catalog.datasets.tables import Dataset, DatasetFile, DatasetVersion
from foundry.errors import NotFound
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import Database
from foundry.infra.ids import uuid7
from foundry.infra.objects import FileRef, ObjectStore

_SPLIT_FILES: dict[Split, str] = {"train": TRAIN_FILE, "eval": EVAL_FILE}


@dataclass(frozen=True, slots=True)
class DatasetManifest:
    """The files of one version: `train.jsonl.zst` and `eval.jsonl.zst`."""

    version_id: UUID
    digest: str
    files: tuple[FileRef, ...]


class Datasets:
    """Datasets of the principal's project."""

    def __init__(
        self, db: AsyncSession, objects: ObjectStore, audit: AuditTrail, principal: Principal
    ) -> None:
        self._db = db
        self._objects = objects
        self._audit = audit
        self._principal = principal
        self._rows = DatasetRows(db, principal.tenant_id, principal.project_id)

    async def add(self, name: str, path: Path, options: AddOptions) -> DatasetVersion:
        version, _ = await self.put(name, path, options)
        return version

    async def put(self, name: str, path: Path, options: AddOptions) -> tuple[DatasetVersion, bool]:
        """Add a version; the same content is the version it was. Returns it and whether it is new.

        Raises:
            InvalidDataset: rows are invalid; details list the first thousand errors.
            DiskFull: no room; nothing is kept.
        """
        check_name(name)
        with tempfile.TemporaryDirectory(prefix="foundry-dataset-") as folder:
            prepared = await asyncio.to_thread(prepare, path, Path(folder), options)
            if same := await self._same(name, prepared):
                return same, False
            return await self._store(name, prepared, options)

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

    async def head(self, reference: str, split: Split, limit: int) -> list[dict[str, object]]:
        """The first rows of a split."""
        version = await self.resolve(reference)
        file = next(each for each in version.files if each.path == _SPLIT_FILES[split])
        with tempfile.TemporaryDirectory(prefix="foundry-rows-") as folder:
            local = Path(folder) / "shard"
            await self._objects.get_file(file.object_key, local)
            return await asyncio.to_thread(lambda: list(islice(read_rows(local), limit)))

    async def _same(self, name: str, prepared: Prepared) -> DatasetVersion | None:
        dataset = await self._rows.get(name)
        return await self._rows.by_digest(dataset.id, prepared.digest) if dataset else None

    async def _store(
        self, name: str, prepared: Prepared, options: AddOptions
    ) -> tuple[DatasetVersion, bool]:
        """Objects first, rows last; on any failure the objects go."""
        version_id = uuid7()
        prefix = f"datasets/{self._principal.tenant_id}/{version_id}"
        keys: list[str] = []
        kept = False
        try:
            for file in prepared.files:
                key = f"{prefix}/{file.path}"
                await self._objects.put_file(key, file.local)
                keys.append(key)
            version = await self._insert(version_id, name, prepared, options, prefix)
            kept = version.id == version_id
        finally:
            if not kept:
                for key in keys:
                    await self._objects.delete(key)
        return version, kept

    async def _insert(
        self, version_id: UUID, name: str, prepared: Prepared, options: AddOptions, prefix: str
    ) -> DatasetVersion:
        dataset, created = await self._rows.ensure(name, self._principal.subject)
        if same := await self._rows.by_digest(dataset.id, prepared.digest):
            return same
        version = DatasetVersion(
            id=version_id,
            tenant_id=self._principal.tenant_id,
            project_id=self._principal.project_id,
            dataset_id=dataset.id,
            dataset=dataset,
            number=await self._rows.next_number(dataset.id),
            digest=prepared.digest,
            kind=prepared.kind,
            train_rows=prepared.train_rows,
            eval_rows=prepared.eval_rows,
            duplicate_rows=prepared.duplicate_rows,
            bad_rows=prepared.bad_rows,
            options={
                "filename": options.filename,
                "eval_fraction": options.eval_fraction,
                "seed": options.seed,
                "max_bad_fraction": options.max_bad_fraction,
            },
            created_by=self._principal.subject,
            stored_files=_file_rows(version_id, self._principal.tenant_id, prepared, prefix),
        )
        self._db.add(version)
        await self._db.flush()
        if created:
            await self._audit.record(
                "dataset.create", "dataset", str(dataset.id), after={"name": name}
            )
        after: dict[str, object] = {"reference": version.reference, "digest": version.digest}
        await self._audit.record("dataset.add", "dataset_version", str(version.id), after=after)
        return version


async def load_dataset(database: Database, version_id: UUID) -> DatasetManifest:
    """The files of a version, for a worker that was told its id. Raises NotFound."""
    async with database.begin() as db:
        version = await find_version(db, version_id)
        if version is None:
            raise _missing(str(version_id))
        return DatasetManifest(version.id, version.digest, version.files)


def _file_rows(
    version_id: UUID, tenant_id: UUID, prepared: Prepared, prefix: str
) -> list[DatasetFile]:
    return [
        DatasetFile(
            version_id=version_id,
            path=file.path,
            tenant_id=tenant_id,
            sha256=file.sha256,
            size=file.size,
            object_key=f"{prefix}/{file.path}",
        )
        for file in prepared.files
    ]


def _missing(reference: str) -> NotFound:
    return NotFound(
        f"the dataset {reference[:160]} does not exist: `foundry datasets list` shows what there is"
    )
