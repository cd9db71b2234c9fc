"""Deleting versions: their rows stay as tombstones, their objects are collected later.

Nothing that runs loses its data, and no lineage its name:

    an active job reads it ──> refused
    a model was trained on it ──> refused, unless forced: its lineage names it ever after
    else ──> a tombstone; its number is never used again, its bytes may be added anew
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.datasets.repository import DatasetRows
from foundry.catalog.datasets.service import deleted_error, missing_error
from foundry.catalog.datasets.tables import Dataset, DatasetVersion
from foundry.errors import VersionInUse
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import utcnow
from foundry.infra.version_use import UseFinder

# So many are looked at in one question.
_BATCH = 500


class DatasetRemoval:
    """Deletes versions of datasets of the principal's project.

    Args:
        readers: know who reads a version now.
        heirs: know which models were trained on one.
    """

    def __init__(
        self,
        db: AsyncSession,
        audit: AuditTrail,
        principal: Principal,
        readers: Sequence[UseFinder] = (),
        heirs: Sequence[UseFinder] = (),
    ) -> None:
        self._db = db
        self._rows = DatasetRows(db, principal.tenant_id, principal.project_id)
        self._audit = audit
        self._principal = principal
        self._readers = readers
        self._heirs = heirs

    async def delete_version(
        self, name: str, number: int, *, force: bool = False, reason: str | None = None
    ) -> None:
        """Delete one version.

        Args:
            force: also if a model was trained on it.

        Raises:
            NotFound: there is none, or it was deleted already.
            VersionInUse: a job reads it, or a model was trained on it; the message says which.
        """
        dataset = await self._lock_dataset(name)
        versions = await self._rows.lock_live(dataset.id, number, 1)
        if not versions:
            tombstone = await self._rows.find_version(dataset.id, number)
            raise deleted_error(tombstone) if tombstone else missing_error(f"{name}@{number}")
        await self._delete(versions, force, reason)

    async def delete_all(
        self, name: str, *, force: bool = False, reason: str | None = None
    ) -> None:
        """Delete every version of a dataset; raises the same. Their numbers stay used."""
        dataset = await self._lock_dataset(name)
        versions = await self._rows.lock_live(dataset.id, None, _BATCH)
        if not versions:
            raise missing_error(name)
        while versions:
            await self._delete(versions, force, reason)
            versions = await self._rows.lock_live(dataset.id, None, _BATCH)

    async def _lock_dataset(self, name: str) -> Dataset:
        """Until commit nobody adds a version or deletes one."""
        dataset = await self._rows.get(name, lock=True)
        if dataset is None:
            raise missing_error(name)
        return dataset

    async def _delete(
        self, versions: Sequence[DatasetVersion], force: bool, reason: str | None
    ) -> None:
        await self._check_unused(versions, force)
        for version in versions:
            version.deleted_at = utcnow()
            version.deleted_by = self._principal.subject
            version.delete_reason = reason
            before: dict[str, object] = {"reference": version.reference, "digest": version.digest}
            await self._audit.record(
                "dataset.delete", "dataset_version", str(version.id), before=before, reason=reason
            )
        await self._db.flush()

    async def _check_unused(self, versions: Sequence[DatasetVersion], force: bool) -> None:
        references = {version.id: version.reference for version in versions}
        for reader in self._readers:
            if use := await reader.find_use(references):
                raise VersionInUse(
                    f"{references[use.version_id]} is read by {use.user}: wait for it or cancel it "
                    "first",
                    used_by=use.user,
                )
        for heir in () if force else self._heirs:
            if use := await heir.find_use(references):
                raise VersionInUse(
                    f"{use.user} was trained on {references[use.version_id]}: its lineage would "
                    "name rows that nobody can read again; delete them all the same with --force "
                    "(force=true)",
                    used_by=use.user,
                )
