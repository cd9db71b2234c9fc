"""Removing the objects of rows that need them no more.

row lists its keys ──objects removed──> row says so, and is not listed again
               └──store refuses──> left as it is, found again the next time
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from foundry.errors import Unavailable
from foundry.infra.objects import ObjectStore

# So many refusals mean that the store is away.
_MOST_LEFT = 10

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnneededObjects:
    """What one row needs no more."""

    row_id: UUID
    keys: Sequence[str]


class UnneededRows(Protocol):
    """Rows of one kind, each with a transaction of its own for what is asked of it."""

    async def list_unneeded(
        self, skipped: Collection[UUID], limit: int
    ) -> Sequence[UnneededObjects]:
        """Rows whose objects are there yet, without the skipped ones."""

    async def mark_removed(self, row_id: UUID) -> None:
        """Note that the objects of a row are gone."""


async def remove_unneeded(
    objects: ObjectStore, rows: UnneededRows, kind: str, batch: int
) -> list[str]:
    """Remove the objects of rows that need them no more. Returns their keys.

    A row whose objects the store does not remove keeps no other from being collected.

    Args:
        kind: of what is removed, in words and plural.
        batch: how many rows are listed at a time.

    Raises:
        Unavailable: some are left; they are found again the next time.
    """
    removed: list[str] = []
    left: list[UUID] = []
    while True:
        listed = await rows.list_unneeded(left, batch)
        for unneeded in listed:
            try:
                # No transaction is open while the store is at work.
                for key in unneeded.keys:
                    await objects.delete(key)
            except Unavailable:
                log.warning("%s: %s stays for now", kind, unneeded.row_id, exc_info=True)
                left.append(unneeded.row_id)
                continue
            await rows.mark_removed(unneeded.row_id)
            removed.extend(unneeded.keys)
        if len(listed) < batch or len(left) >= _MOST_LEFT:
            break
    if left:
        raise Unavailable(f"{len(left)} {kind} could not be removed from the object store")
    return removed
