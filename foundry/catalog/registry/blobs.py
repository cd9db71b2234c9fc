"""Files of versions in the object store: once per tenant and content."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.artifacts import InspectedFile
from foundry.catalog.registry.repository import Blobs
from foundry.catalog.registry.tables import Blob
from foundry.infra.database import Database
from foundry.infra.ids import uuid7
from foundry.infra.objects import ObjectStore


class BlobGoneError(Exception):
    """A blob that was known when the upload began has been collected meanwhile."""


class BlobUpload:
    """Objects first, rows last: until a claim is committed nothing in the database knows of them.

    What a process that was killed has uploaded is found by `orphans` and removed.
    """

    def __init__(self, database: Database, objects: ObjectStore, tenant_id: UUID) -> None:
        self._database = database
        self._objects = objects
        self._tenant_id = tenant_id
        self._uploaded: dict[str, str] = {}
        self._claimed: set[str] = set()

    async def put(self, files: Sequence[InspectedFile]) -> None:
        """Store what the tenant does not have yet. Raises DiskFull, Unavailable."""
        contents = {file.sha256: file for file in files}
        async with self._database.begin() as db:
            known = await Blobs(db, self._tenant_id).find_known(contents)
        # No transaction is open while gigabytes are on their way.
        for sha256 in sorted(contents.keys() - known.keys() - self._uploaded.keys()):
            # The last part is new each time, so a retry never meets what a crash left behind.
            key = f"blobs/{self._tenant_id}/{sha256[:2]}/{sha256}/{uuid7()}"
            await self._objects.put_file(key, contents[sha256].local)
            self._uploaded[sha256] = key

    async def claim(self, db: AsyncSession, files: Sequence[InspectedFile]) -> dict[str, Blob]:
        """One reference per file; by digest, in one order, so that claims never deadlock.

        Raises:
            BlobGoneError: one was removed since `put`, which is to be called again.
        """
        blobs, claimed = Blobs(db, self._tenant_id), dict[str, Blob]()
        for file in sorted(files, key=lambda each: each.sha256):
            blob = await blobs.claim(file.sha256, file.size, self._uploaded.get(file.sha256))
            if blob is None:
                raise BlobGoneError(file.path)
            claimed[file.sha256] = blob
        self._claimed = {blob.object_key for blob in claimed.values()}
        return claimed

    async def discard_unclaimed(self) -> None:
        """Remove what nobody needed, because another upload of the same content was first."""
        for sha256, key in list(self._uploaded.items()):
            if key not in self._claimed:
                await self._objects.delete(key)
                del self._uploaded[sha256]

    async def discard(self) -> None:
        """Remove everything, after a failure."""
        self._claimed.clear()
        await self.discard_unclaimed()
