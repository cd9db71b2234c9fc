"""Removing the objects of versions that were deleted.

live, no references ──> deleting (nobody can claim it) ──object removed──> deleted
"""

from foundry.catalog.registry.repository import UnusedBlobs
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore

# A registration claims its blobs in the transaction that uploads them; an hour is longer than one.
_UNUSED_S = 3600.0
_BATCH = 100


async def collect_blobs(
    database: Database, objects: ObjectStore, older_than_s: float = _UNUSED_S
) -> list[str]:
    """Remove the objects that no version refers to. Returns their keys.

    Raises:
        Unavailable: the object store is away; the rest is removed the next time.
    """
    async with database.begin() as db:
        await UnusedBlobs(db).mark_deleting(older_than_s, _BATCH)
    async with database.begin() as db:
        blobs = await UnusedBlobs(db).deleting(_BATCH)
    for blob in blobs:
        # No transaction is open while the store is at work.
        await objects.delete(blob.object_key)
        async with database.begin() as db:
            await UnusedBlobs(db).mark_deleted(blob.id)
    return [blob.object_key for blob in blobs]
