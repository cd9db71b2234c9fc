"""Objects that no row knows: what a process that was killed had uploaded before its rows."""

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from foundry.errors import Unavailable
from foundry.infra.objects import ObjectStore

# From the end of an object's upload to its row: the other files of its version are uploaded
# meanwhile, which takes hours for a large model on a slow line.
GRACE_S = 86_400.0

log = logging.getLogger(__name__)

ListKnown = Callable[[Collection[str]], Awaitable[set[str]]]


class OrphanCollector:
    """Removes what its listings show, is a day old, and no row knows.

    Args:
        known: by the prefix of their keys, those of some keys that a row knows. Nothing else of
            the store is looked at.
    """

    def __init__(
        self,
        objects: ObjectStore,
        known: Mapping[str, ListKnown],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._known = known
        self._clock = clock

    async def collect(self) -> None:
        """One turn.

        Raises:
            Unavailable: some are left; they are found again the next time.
        """
        left = 0
        for prefix, list_known in self._known.items():
            async for page in self._objects.list_pages(prefix):
                before = self._clock() - GRACE_S
                old = [each.key for each in page if each.stored_at < before]
                if old:
                    left += await self._remove(sorted(set(old) - await list_known(old)))
        if removed := await self._objects.remove_unfinished(GRACE_S):
            log.info("removed %d unfinished uploads", removed)
        if left:
            raise Unavailable(f"{left} objects that nothing refers to could not be removed")

    async def _remove(self, orphans: list[str]) -> int:
        """Returns how many are left."""
        left = 0
        for key in orphans:
            try:
                await self._objects.delete(key)
            except Unavailable:
                log.warning("object %s cannot be removed now", key, exc_info=True)
                left += 1
            else:
                log.info("removed %s, which nothing refers to", key)
        return left
