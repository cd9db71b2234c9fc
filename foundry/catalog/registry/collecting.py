"""Removing the objects of versions that were deleted.

live, no references ──> deleting (nobody can claim it) ──object removed──> deleted
"""

import logging
from collections.abc import Collection
from uuid import UUID

from foundry.catalog.registry.repository import UnusedBlobs
from foundry.errors import Unavailable
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore

# A deleted version may be registered again within it; a registration that finds a blob gone uploads
# it once more.
_UNUSED_S = 3600.0
_BATCH = 100
# So many refusals mean that the store is away.
_MOST_LEFT = 10

log = logging.getLogger(__name__)


async def collect_blobs(
    database: Database, objects: ObjectStore, older_than_s: float = _UNUSED_S
) -> list[str]:
    """Remove the objects that no version refers to. Returns their keys.

    One that the store does not remove keeps no other from being removed.

    Raises:
        Unavailable: some are left; they are found again the next time.
    """
    async with database.begin() as db:
        await UnusedBlobs(db).mark_deleting(older_than_s, _BATCH)
    removed: list[str] = []
    left: list[UUID] = []
    while True:
        async with database.begin() as db:
            blobs = await UnusedBlobs(db).list_deleting(left, _BATCH)
        for blob in blobs:
            try:
                # No transaction is open while the store is at work.
                await objects.delete(blob.object_key)
            except Unavailable:
                log.warning("object %s cannot be removed now", blob.object_key, exc_info=True)
                left.append(blob.id)
                continue
            async with database.begin() as db:
                await UnusedBlobs(db).mark_deleted(blob.id)
            removed.append(blob.object_key)
        if len(blobs) < _BATCH or len(left) >= _MOST_LEFT:
            break
    if left:
        raise Unavailable(f"{len(left)} unused objects could not be removed from the object store")
    return removed


async def list_known_blobs(database: Database, keys: Collection[str]) -> set[str]:
    """Those of `keys` that a row knows; what none knows was left by a killed registration."""
    async with database.begin() as db:
        return await UnusedBlobs(db).list_known_keys(keys)
