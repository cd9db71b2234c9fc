"""Verified local copies of versions' files, shared by every process of a node."""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

from foundry.errors import InvalidArtifact
from foundry.infra.directory_store import storage_error, sync_directory
from foundry.infra.objects import FileRef, ObjectStore

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20
_LOCK_POLL_S = 0.1


class WeightCache:
    """Directories named by digest: complete and verified, or absent."""

    def __init__(self, objects: ObjectStore, root: Path) -> None:
        self._objects = objects
        self._root = root

    async def ensure(self, digest: str, files: Sequence[FileRef]) -> Path:
        """The directory with exactly `files`, fetched once per node.

        Args:
            digest: of the version; sha256, lower-case hex.

        Raises:
            InvalidArtifact: a file is not what its digest says; nothing is kept.
            NotFound: the object store lacks a file.
            DiskFull: no space; nothing is kept.
        """
        if not _DIGEST.fullmatch(digest):
            raise InvalidArtifact(f"{digest!r} is not a sha256 digest")
        target = self._root / digest
        if target.is_dir():
            return target
        self._root.mkdir(parents=True, exist_ok=True)
        async with self._one_fetcher(digest):
            if not target.is_dir():
                await self._fetch(digest, files, target)
        return target

    @asynccontextmanager
    async def _one_fetcher(self, digest: str) -> AsyncIterator[None]:
        """A file lock, because replicas of one node are separate processes."""
        path = self._root / f".{digest}.lock"
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            while not _try_lock(handle):  # noqa: ASYNC110 - no event crosses processes
                await asyncio.sleep(_LOCK_POLL_S)
            yield
        finally:
            os.close(handle)

    async def _fetch(self, digest: str, files: Sequence[FileRef], target: Path) -> None:
        partial = self._root / f".{digest}.partial"
        # We hold the lock, so what is here belongs to a fetch that was killed.
        await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
        try:
            partial.mkdir()
            for file in files:
                await self._fetch_file(file, partial)
            sync_directory(partial)
            partial.rename(target)
            sync_directory(self._root)
        except OSError as error:
            raise storage_error(error, self._root) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)

    async def _fetch_file(self, file: FileRef, folder: Path) -> None:
        path = PurePosixPath(file.path)
        if path.is_absolute() or not path.parts or ".." in path.parts:
            raise InvalidArtifact(f"{file.path!r} is not a relative path")
        local = folder.joinpath(*path.parts)
        local.parent.mkdir(parents=True, exist_ok=True)
        await self._objects.get_file(file.object_key, local)
        size, digest = await asyncio.to_thread(_settle, local)
        if (size, digest) != (file.size, file.sha256):
            raise InvalidArtifact(
                f"{file.path} is damaged in the object store: it has {size} bytes and sha256 "
                f"{digest[:12]}…, registered were {file.size} and {file.sha256[:12]}…; "
                "register the version again",
                path=file.path,
            )


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _settle(path: Path) -> tuple[int, str]:
    """Flush the file to disk. Returns its size in bytes and its sha256."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        os.fsync(reader.fileno())
    return size, digest.hexdigest()
