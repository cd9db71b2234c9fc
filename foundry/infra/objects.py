"""The object store: a directory or S3, written once per key."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileRef:
    """One file of an immutable version.

    Attributes:
        path: relative POSIX path inside the version.
        sha256: digest of the bytes, lower-case hex.
        size: bytes.
        object_key: where the object store keeps it.
    """

    path: str
    sha256: str
    size: int
    object_key: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as a listing shows it.

    Attributes:
        stored_at: by the store's clock, as a Unix time.
    """

    key: str
    stored_at: float


class ObjectStore(Protocol):
    """Whole objects under slash-separated keys. A key is written once and never changes."""

    async def put_file(self, key: str, source: Path) -> None:
        """Store a file; whole or not at all. Raises Conflict (key exists), DiskFull."""

    async def put_bytes(self, key: str, data: bytes) -> None: ...

    async def get_file(self, key: str, target: Path) -> None:
        """Fetch into `target` (replaced atomically). Raises NotFound."""

    async def get_bytes(self, key: str) -> bytes: ...

    async def exists(self, key: str) -> bool: ...

    async def delete(self, key: str) -> None:
        """Remove; a missing key is no error."""

    def list_pages(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """Objects whose keys begin with `prefix`, which ends with a slash, a thousand at a time.

        What is stored or removed meanwhile may be in it or not.
        """

    async def remove_unfinished(self, older_than_s: float) -> int:
        """Remove what uploads that were killed have left, which no key shows. Returns how many."""
