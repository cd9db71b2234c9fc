"""Adding datasets and reading their rows: no transaction is open while files are on their way.

    prepare ──> the same bytes are a version? ──> upload ──> rows (audited)

Objects whose rows are never written, because the process was killed, are collected as orphans.
"""

import asyncio
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.datasets.domain import (
    EVAL_FILE,
    TRAIN_FILE,
    AddOptions,
    Split,
    check_name,
)
from foundry.catalog.datasets.preparation import PreparedDataset, prepare
from foundry.catalog.datasets.repository import DatasetRows, list_known_keys
from foundry.catalog.datasets.service import Datasets
from foundry.catalog.datasets.shards import read_rows
from foundry.catalog.datasets.tables import DatasetFile, DatasetVersion
from foundry.errors import FoundryError
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database, is_rolled_back
from foundry.infra.ids import uuid7
from foundry.infra.objects import ObjectStore
from foundry.infra.scratch import scratch_directory

_SPLIT_FILES: dict[Split, str] = {"train": TRAIN_FILE, "eval": EVAL_FILE}


class DatasetContent:
    """Files of datasets of the principal's project.

    Args:
        request_id: for the audit.
    """

    def __init__(
        self, database: Database, objects: ObjectStore, principal: Principal, request_id: str
    ) -> None:
        self._database = database
        self._objects = objects
        self._principal = principal
        self._request_id = request_id

    async def add(self, name: str, path: Path, options: AddOptions) -> tuple[DatasetVersion, bool]:
        """Add a version; the same content is the version it was. Returns it and whether it is new.

        Raises:
            InvalidDataset: rows are invalid; details list the first thousand errors.
            DiskFull: no room; nothing is kept.
        """
        check_name(name)
        with scratch_directory("dataset") as folder:
            prepared = await asyncio.to_thread(prepare, path, folder, options)
            async with self._database.begin() as db:
                if same := await self._find_same(db, name, prepared):
                    return same, False
            return await self._store_files(name, prepared, options)

    async def read_head(self, reference: str, split: Split, limit: int) -> list[dict[str, object]]:
        """The first rows of a split. Raises NotFound."""
        async with self._database.begin() as db:
            version = await Datasets(db, self._principal).resolve(reference)
            file = next(each for each in version.files if each.path == _SPLIT_FILES[split])
        with scratch_directory("rows") as folder:
            local = folder / "shard"
            await self._objects.get_file(file.object_key, local)
            return await asyncio.to_thread(lambda: list(islice(read_rows(local), limit)))

    def _open_rows(self, db: AsyncSession) -> DatasetRows:
        return DatasetRows(db, self._principal.tenant_id, self._principal.project_id)

    async def _find_same(
        self, db: AsyncSession, name: str, prepared: PreparedDataset
    ) -> DatasetVersion | None:
        rows = self._open_rows(db)
        dataset = await rows.get(name)
        return await rows.find_by_digest(dataset.id, prepared.digest) if dataset else None

    async def _store_files(
        self, name: str, prepared: PreparedDataset, options: AddOptions
    ) -> tuple[DatasetVersion, bool]:
        """Objects first, rows last.

        When nothing can name the objects they go; else the collector of orphans looks after them.
        """
        version_id = uuid7()
        prefix = f"datasets/{self._principal.tenant_id}/{version_id}"
        keys: list[str] = []
        try:
            for file in prepared.files:
                key = f"{prefix}/{file.path}"
                await self._objects.put_file(key, file.local)
                keys.append(key)
            async with self._database.begin() as db:
                version = await self._insert_version(
                    db, version_id, name, prepared, options, prefix
                )
        except FoundryError as error:
            if is_rolled_back(error):
                await self._delete_objects(keys)
            raise
        if version.id != version_id:
            # Another upload of the same content was first.
            await self._delete_objects(keys)
        return version, version.id == version_id

    async def _delete_objects(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._objects.delete(key)

    async def _insert_version(
        self,
        db: AsyncSession,
        version_id: UUID,
        name: str,
        prepared: PreparedDataset,
        options: AddOptions,
        prefix: str,
    ) -> DatasetVersion:
        rows, audit = self._open_rows(db), AuditTrail(db, self._principal, self._request_id)
        dataset, created = await rows.ensure_dataset(name, self._principal.subject)
        if same := await rows.find_by_digest(dataset.id, prepared.digest):
            return same
        version = DatasetVersion(
            id=version_id,
            tenant_id=self._principal.tenant_id,
            project_id=self._principal.project_id,
            dataset_id=dataset.id,
            dataset=dataset,
            number=await rows.choose_next_number(dataset.id),
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
                **({"uses": list(prepared.uses)} if prepared.uses else {}),
            },
            created_by=self._principal.subject,
            stored_files=_make_file_rows(version_id, self._principal.tenant_id, prepared, prefix),
        )
        db.add(version)
        await db.flush()
        if created:
            await audit.record("dataset.create", "dataset", str(dataset.id), after={"name": name})
        after: dict[str, object] = {"reference": version.reference, "digest": version.digest}
        await audit.record("dataset.add", "dataset_version", str(version.id), after=after)
        return version


async def list_known_files(database: Database, keys: Collection[str]) -> set[str]:
    """Those of `keys` that a row knows; what none knows was left by a killed upload."""
    async with database.begin() as db:
        return await list_known_keys(db, keys)


def _make_file_rows(
    version_id: UUID, tenant_id: UUID, prepared: PreparedDataset, prefix: str
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
