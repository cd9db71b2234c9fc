"""Files of versions in the object store: once per tenant and content."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.artifacts import InspectedFile
from foundry.catalog.registry.repository import Blobs
from foundry.catalog.registry.tables import Blob
from foundry.errors import Conflict
from foundry.infra.ids import uuid7
from foundry.infra.objects import ObjectStore


class BlobUpload:
    """Objects first, rows last: until `claim` nothing in the database knows of them."""

    def __init__(self, db: AsyncSession, objects: ObjectStore, tenant_id: UUID) -> None:
        self._blobs = Blobs(db, tenant_id)
        self._objects = objects
        self._tenant_id = tenant_id
        self._uploaded: dict[str, str] = {}

    async def put(self, files: Sequence[InspectedFile]) -> None:
        """Store what the tenant does not have yet. Raises DiskFull, Unavailable."""
        contents = {file.sha256: file for file in files}
        known = await self._blobs.known(contents)
        for sha256 in sorted(contents.keys() - known.keys()):
            # The last part is new each time, so a retry never meets what a crash left behind.
            key = f"blobs/{self._tenant_id}/{sha256[:2]}/{sha256}/{uuid7()}"
            await self._objects.put_file(key, contents[sha256].local)
            self._uploaded[sha256] = key

    async def claim(self, files: Sequence[InspectedFile]) -> dict[str, Blob]:
        """One reference per file; by digest, in one order, so that claims never deadlock."""
        claimed: dict[str, Blob] = {}
        for file in sorted(files, key=lambda each: each.sha256):
            key = self._uploaded.get(file.sha256)
            blob = await self._blobs.claim(file.sha256, file.size, key)
            if blob is None:
                raise Conflict(f"{file.path} was removed from the store meanwhile; register again")
            claimed[file.sha256] = blob
            if key is not None and blob.object_key != key:
                await self._objects.delete(self._uploaded.pop(file.sha256))
        return claimed

    async def discard(self) -> None:
        """Remove what no row refers to, after a failure."""
        for key in self._uploaded.values():
            await self._objects.delete(key)
        self._uploaded.clear()
