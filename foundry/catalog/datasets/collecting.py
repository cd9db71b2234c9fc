"""Removing the objects of versions that were deleted."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from foundry.catalog.datasets.repository import DeletedVersions
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore
from foundry.infra.removal import UnneededObjects, remove_unneeded

# Whoever had resolved the version before it was deleted has read its files by then.
_READ_S = 3600.0
_BATCH = 100


async def collect_deleted(
    database: Database, objects: ObjectStore, older_than_s: float = _READ_S
) -> list[str]:
    """Remove the objects of deleted versions. Returns their keys.

    Every version has objects of its own, so none is another's.

    Raises:
        Unavailable: some are left; they are found again the next time.
    """
    rows = _Deleted(database, older_than_s)
    return await remove_unneeded(objects, rows, "deleted datasets", _BATCH)


@dataclass(frozen=True, slots=True)
class _Deleted:
    database: Database
    older_than_s: float

    async def list_unneeded(self, skipped: Collection[UUID], limit: int) -> list[UnneededObjects]:
        async with self.database.begin() as db:
            versions = await DeletedVersions(db).list_uncollected(self.older_than_s, skipped, limit)
        return [
            UnneededObjects(version.id, [file.object_key for file in version.files])
            for version in versions
        ]

    async def mark_removed(self, row_id: UUID) -> None:
        async with self.database.begin() as db:
            await DeletedVersions(db).mark_collected(row_id)
