"""Removing the objects of versions that were deleted.

live, no references ──> deleting (nobody can claim it) ──object removed──> deleted
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from foundry.catalog.registry.repository import UnusedBlobs
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore
from foundry.infra.removal import UnneededObjects, remove_unneeded

# A deleted version may be registered again within it; a registration that finds a blob gone uploads
# it once more.
_UNUSED_S = 3600.0
_BATCH = 100


async def collect_blobs(
    database: Database, objects: ObjectStore, older_than_s: float = _UNUSED_S
) -> list[str]:
    """Remove the objects that no version refers to. Returns their keys.

    Raises:
        Unavailable: some are left; they are found again the next time.
    """
    async with database.begin() as db:
        await UnusedBlobs(db).mark_deleting(older_than_s, _BATCH)
    return await remove_unneeded(objects, _Deleting(database), "unused objects", _BATCH)


@dataclass(frozen=True, slots=True)
class _Deleting:
    database: Database

    async def list_unneeded(self, skipped: Collection[UUID], limit: int) -> list[UnneededObjects]:
        async with self.database.begin() as db:
            blobs = await UnusedBlobs(db).list_deleting(skipped, limit)
        return [UnneededObjects(blob.id, [blob.object_key]) for blob in blobs]

    async def mark_removed(self, row_id: UUID) -> None:
        async with self.database.begin() as db:
            await UnusedBlobs(db).mark_deleted(row_id)


async def list_known_blobs(database: Database, keys: Collection[str]) -> set[str]:
    """Those of `keys` that a row knows; what none knows was left by a killed registration."""
    async with database.begin() as db:
        return await UnusedBlobs(db).list_known_keys(keys)
