"""Registering a version: files first, without a transaction, then one that adds its rows.

    inspect ──> upload what the store lacks ──> rows (audited, under the caller's lease)
                        ^──a blob was collected meanwhile──┘

Objects whose rows are never written, because the process was killed, are collected as orphans.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.artifacts import Inspection, inspect_files
from foundry.catalog.registry.blobs import BlobGoneError, BlobUpload
from foundry.catalog.registry.domain import VersionSpec, is_valid_name
from foundry.catalog.registry.files import Selection
from foundry.catalog.registry.registration import Registration
from foundry.catalog.registry.tables import ModelVersion
from foundry.errors import Conflict, FoundryError, InvalidRequest
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database, is_rolled_back
from foundry.infra.objects import ObjectStore

# A blob that nobody refers to is collected once; it can hardly go twice while files are uploaded.
_TRIES = 3


class Registrar:
    """Adds versions on behalf of one principal.

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

    async def register(
        self,
        spec: VersionSpec,
        files: Path | Selection,
        confirm: Callable[[AsyncSession], Awaitable[object]] | None = None,
    ) -> ModelVersion:
        """Check the files, store them and add a `ready` version: all of it or nothing.

        Registering the same result of the same job again returns the first version.

        Args:
            files: a directory that holds nothing else, or what was selected of one.
            confirm: called last in the transaction that adds the version; what it raises undoes it.

        Raises:
            InvalidArtifact: a file is not allowed, damaged, or contradicts the declared facts.
            VersionExists: the explicit version is taken.
            ModelNotFound: base or parent do not exist.
            DiskFull: the object store has no room.
        """
        if not is_valid_name(spec.model):
            raise InvalidRequest(f"{spec.model[:160]!r} is not a model name", param="name")
        inspection = await asyncio.to_thread(inspect_files, files, spec.kind)
        upload = BlobUpload(self._database, self._objects, self._principal.tenant_id)
        try:
            version = await self._store_version(spec, inspection, upload, confirm)
        except FoundryError as error:
            # What a row may name all the same is left to the collector of orphans.
            if is_rolled_back(error):
                await upload.discard()
            raise
        await upload.discard_unclaimed()
        return version

    async def _store_version(
        self,
        spec: VersionSpec,
        inspection: Inspection,
        upload: BlobUpload,
        confirm: Callable[[AsyncSession], Awaitable[object]] | None,
    ) -> ModelVersion:
        for _ in range(_TRIES):
            await upload.put(inspection.files)
            try:
                async with self._database.begin() as db:
                    audit = AuditTrail(db, self._principal, self._request_id)
                    registration = Registration(db, audit, self._principal)
                    version = await registration.insert(spec, inspection, upload)
                    if confirm is not None:
                        await confirm(db)
                    return version
            except BlobGoneError:
                continue
        raise Conflict(f"files of {spec.model} were removed from the store meanwhile: try again")
