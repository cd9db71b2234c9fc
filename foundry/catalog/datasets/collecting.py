"""Removing the objects of versions that were deleted."""

import logging
from uuid import UUID

from foundry.catalog.datasets.repository import DeletedVersions
from foundry.errors import Unavailable
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore

# Whoever had resolved the version before it was deleted has read its files by then.
_READ_S = 3600.0
_BATCH = 100
# So many refusals mean that the store is away.
_MOST_LEFT = 10

log = logging.getLogger(__name__)


async def collect_deleted(
    database: Database, objects: ObjectStore, older_than_s: float = _READ_S
) -> list[str]:
    """Remove the objects of deleted versions. Returns their keys.

    Every version has objects of its own, so none is another's. A version whose objects the store
    does not remove keeps no other from being collected.

    Raises:
        Unavailable: some are left; they are found again the next time.
    """
    removed: list[str] = []
    left: list[UUID] = []
    while True:
        async with database.begin() as db:
            versions = await DeletedVersions(db).list_uncollected(older_than_s, left, _BATCH)
        for version in versions:
            keys = [file.object_key for file in version.files]
            try:
                # No transaction is open while the store is at work.
                for key in keys:
                    await objects.delete(key)
            except Unavailable:
                log.warning("dataset version %s cannot be removed now", version.id, exc_info=True)
                left.append(version.id)
                continue
            async with database.begin() as db:
                await DeletedVersions(db).mark_collected(version.id)
            removed.extend(keys)
        if len(versions) < _BATCH or len(left) >= _MOST_LEFT:
            break
    if left:
        raise Unavailable(
            f"{len(left)} deleted datasets could not be removed from the object store"
        )
    return removed
