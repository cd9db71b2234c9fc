"""Verified local copies of versions' files, shared by every process of a node.

A directory's modification time says when it was last used: access times are off on many disks. Who
uses, fetches or evicts a digest holds its lock file, so nobody is given a directory that is going.

    <digest>/              complete
    .<digest>.lock         held while it is fetched, handed out or evicted
    .<digest>.partial/     being fetched, or left by a process that was killed
    .<digest>.deleted/     being evicted, or left by a process that was killed
"""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path, PurePosixPath

from foundry.errors import InvalidArtifact
from foundry.infra.directory_store import storage_error, sync_directory
from foundry.infra.objects import FileRef, ObjectStore

# A process that was just given a directory opens it within this.
IN_USE_S = 3600.0
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
        self._root.mkdir(parents=True, exist_ok=True)
        async with self._hold_digest(digest):
            if not target.is_dir():
                await self._fetch(digest, files, target)
            # For the evictor; a fetch may have taken longer than what it calls young.
            os.utime(target)
        return target

    @asynccontextmanager
    async def _hold_digest(self, digest: str) -> AsyncIterator[None]:
        """A file lock, because replicas of one node are separate processes."""
        while True:
            with try_lock_digest(self._root, digest) as locked:
                if locked:
                    yield
                    return
            await asyncio.sleep(_LOCK_POLL_S)

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
        size, digest = await asyncio.to_thread(_flush_and_hash, local)
        if (size, digest) != (file.size, file.sha256):
            raise InvalidArtifact(
                f"{file.path} is damaged in the object store: it has {size} bytes and sha256 "
                f"{digest[:12]}…, registered were {file.size} and {file.sha256[:12]}…; "
                "register the version again",
                path=file.path,
            )


@contextmanager
def try_lock_digest(root: Path, digest: str) -> Iterator[bool]:
    """Hold the lock of a digest, if nobody else does. Yields whether it is held."""
    handle = os.open(root / f".{digest}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        yield False
        return
    try:
        yield True
    finally:
        os.close(handle)


def _flush_and_hash(path: Path) -> tuple[int, str]:
    """Flush the file to disk. Returns its size in bytes and its sha256."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        os.fsync(reader.fileno())
    return size, digest.hexdigest()
