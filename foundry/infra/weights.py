"""Verified local copies of versions' files, shared by every process of a node.

A directory's modification time says when it was last used: access times are off on many disks. Who
fetches or evicts a digest holds its lock file alone, who reads it shares the lock, so nobody is
given a directory that is going, and none goes that a process keeps.

    <digest>/              complete
    .<digest>.lock         shared while it is handed out or kept; exclusive to fetch or evict it
    .<digest>.partial/     being fetched, or left by a process that was killed
    .<digest>.deleted/     being evicted, or left by a process that was killed
"""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from foundry.errors import InvalidArtifact
from foundry.infra.directory_store import storage_error, sync_directory
from foundry.infra.objects import FileRef, ObjectStore

# A process that was just given a directory opens it within this.
IN_USE_S = 3600.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20
_LOCK_POLL_S = 0.1


# Lock files of directories that this process keeps; the kernel closes them with it.
_KEPT: dict[Path, int] = {}


class WeightCache:
    """Directories named by digest: complete and verified, or absent."""

    def __init__(self, objects: ObjectStore, root: Path) -> None:
        self._objects = objects
        self._root = root

    async def ensure(self, digest: str, files: Sequence[FileRef], *, keep: bool = False) -> Path:
        """The directory with exactly `files`, fetched once per node.

        Args:
            digest: of the version; sha256, lower-case hex.
            keep: it is not evicted as long as this process lives: for what is read hours later.

        Raises:
            InvalidArtifact: a file is not what its digest says; nothing is kept.
            NotFound: the object store lacks a file.
            DiskFull: no space; nothing is kept.
        """
        if not is_digest(digest):
            raise InvalidArtifact(f"{digest!r} is not a sha256 digest")
        target = self._root / digest
        self._root.mkdir(parents=True, exist_ok=True)
        # A file lock, because replicas of one node are separate processes.
        while True:
            if await self._try_ensure(digest, files, target, keep=keep):
                return target
            await asyncio.sleep(_LOCK_POLL_S)

    async def _try_ensure(
        self, digest: str, files: Sequence[FileRef], target: Path, *, keep: bool
    ) -> bool:
        """Whether the directory is there now; False: another process fetches or evicts it."""
        handle = os.open(self._root / f".{digest}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        kept = False
        try:
            if not (_try_flock(handle, fcntl.LOCK_SH) and _is_complete(target)):
                # Two that share the lock would wait for each other.
                fcntl.flock(handle, fcntl.LOCK_UN)
                if not _try_flock(handle, fcntl.LOCK_EX):
                    return False
                if not _is_complete(target):
                    await self._fetch(digest, files, target)
            # For the evictor; a fetch may have taken longer than what it calls young.
            os.utime(target)
            if keep and target not in _KEPT:
                # Between the two locks the evictor finds a directory that was just used.
                fcntl.flock(handle, fcntl.LOCK_SH)
                _KEPT[target], kept = handle, True
            return True
        finally:
            if not kept:
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
        yield _try_flock(handle, fcntl.LOCK_EX)
    finally:
        os.close(handle)


def _try_flock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_complete(target: Path) -> bool:
    return target.is_dir()


def is_digest(name: str) -> bool:
    """Whether a directory of that name is one of the cache's; others may lie beside them."""
    return _DIGEST.fullmatch(name) is not None


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
