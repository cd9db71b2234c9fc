"""Objects that no row knows: what a process that was killed had uploaded before its rows.

A store may be another installation's, by a copied setting: there every object would look like an
orphan. So the store says in one object whose it is, and nothing is removed from a foreign one.

    no owner ──this database knows what lies there──> ours: collected from the next turn on
        └──it knows nothing of it──> foreign <──another database's name
"""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from foundry.errors import Conflict, NotFound, Unavailable
from foundry.infra.objects import ObjectStore

# From the end of an object's upload to its row: the other files of its version are uploaded
# meanwhile. A terabyte at 10 MB/s takes more than a day.
GRACE_S = 7 * 86_400.0
OWNER_KEY = "owner.json"

log = logging.getLogger(__name__)

ListKnown = Callable[[Collection[str]], Awaitable[set[str]]]


class OrphanCollector:
    """Removes what its listings show, is a week old, and no row knows.

    Args:
        known: by the prefix of their keys, those of some keys that a row knows. Nothing else of
            the store is looked at.
        judged: the prefixes by which a store that nobody has marked is known to be ours.
        read_owner: names the database that knows the rows.
    """

    def __init__(
        self,
        objects: ObjectStore,
        known: Mapping[str, ListKnown],
        judged: Collection[str],
        read_owner: Callable[[], Awaitable[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._known = known
        self._judged = judged
        self._read_owner = read_owner
        self._clock = clock
        # A turn that was cut off is not begun at the same place again.
        self._order = list(known)

    async def collect(self) -> None:
        """One turn.

        Raises:
            Conflict: the store is another installation's.
            Unavailable: some are left; they are found again the next time.
        """
        if not await self._is_ours():
            return
        left = 0
        for prefix in tuple(self._order):
            self._order.append(self._order.pop(0))
            left += await self._collect_prefix(prefix)
        if removed := await self._objects.remove_unfinished(GRACE_S):
            log.info("removed %d unfinished uploads", removed)
        if left:
            raise Unavailable(f"{left} objects that nothing refers to could not be removed")

    async def _is_ours(self) -> bool:
        """Whether to collect now; a store that was just taken is looked at in the next turn."""
        owner = await self._read_owner()
        try:
            found = json.loads(await self._objects.get_bytes(OWNER_KEY))["database"]
        except NotFound:
            await self._require_known()
            # Of two that begin at once the first counts: a key is written once.
            await self._objects.put_bytes(OWNER_KEY, json.dumps({"database": owner}).encode())
            return False
        except (ValueError, KeyError, TypeError):
            found = None
        if found != owner:
            raise _foreign_store_error()
        return True

    async def _require_known(self) -> None:
        """Refuse a store that nobody has marked and of whose objects this database knows none."""
        seen = False
        for prefix in self._judged:
            async for page in self._objects.list_pages(prefix):
                keys = [each.key for each in page]
                if await self._known[prefix](keys):
                    return
                seen = seen or bool(keys)
                break
        if seen:
            raise _foreign_store_error()

    async def _collect_prefix(self, prefix: str) -> int:
        """Returns how many are left."""
        left = 0
        async for page in self._objects.list_pages(prefix):
            before = self._clock() - GRACE_S
            old = [each.key for each in page if each.stored_at < before]
            if old:
                known = await self._known[prefix](old)
                left += await self._remove(sorted(set(old) - known))
        return left

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


def _foreign_store_error() -> Conflict:
    return Conflict(
        "the object store belongs to another database, so nothing is removed from it: give each "
        f"installation its own FOUNDRY_OBJECTS__URL; after a database was moved, delete the object "
        f"{OWNER_KEY}, which is written anew"
    )
