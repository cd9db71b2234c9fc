"""Objects as files of one directory."""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from uuid import uuid4

from foundry.errors import Conflict, DiskFull, InvalidRequest, NotFound, Unavailable
from foundry.infra.objects import StoredObject
from foundry.validation import describe_os_error

_PARTIAL_SUFFIX = ".partial"
_PAGE = 1000


class DirectoryStore:
    """An `ObjectStore` under `root`: a key is visible only when its bytes are on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put_file(self, key: str, source: Path) -> None:
        await asyncio.to_thread(self._put, key, lambda partial: _copy(source, partial))

    async def put_bytes(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._put, key, lambda partial: _write(data, partial))

    async def get_file(self, key: str, target: Path) -> None:
        await asyncio.to_thread(self._fetch, key, target)

    async def get_bytes(self, key: str) -> bytes:
        return await asyncio.to_thread(self._read, key)

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._path(key).is_file)

    async def delete(self, key: str) -> None:
        await asyncio.to_thread(self._path(key).unlink, missing_ok=True)

    async def list_pages(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        found = self._list(self._path(prefix.rstrip("/")))
        while page := await asyncio.to_thread(lambda: list(islice(found, _PAGE))):
            yield page

    async def remove_unfinished(self, older_than_s: float) -> int:
        return await asyncio.to_thread(self._remove_partials, time.time() - older_than_s)

    def _list(self, folder: Path) -> Iterator[StoredObject]:
        for path in _list_files(folder):
            if not path.name.startswith("."):
                with suppress(FileNotFoundError):
                    key = path.relative_to(self._root).as_posix()
                    yield StoredObject(key, path.stat().st_mtime)

    def _remove_partials(self, before: float) -> int:
        removed = 0
        for path in _list_files(self._root):
            if path.name.startswith(".") and path.name.endswith(_PARTIAL_SUFFIX):
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()
                        removed += 1
        return removed

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not key or any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise InvalidRequest(f"{key!r} is not an object key")
        return self._root.joinpath(*parts)

    def _put(self, key: str, fill: Callable[[Path], None]) -> None:
        path = self._path(key)
        partial = path.with_name(f".{path.name}.{uuid4().hex}{_PARTIAL_SUFFIX}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fill(partial)
            # A hard link, unlike a rename, refuses to replace: a key never changes.
            os.link(partial, path)
            sync_directory(path.parent)
        except FileExistsError as error:
            raise Conflict(f"object {key} exists already") from error
        except OSError as error:
            raise storage_error(error, self._root) from error
        finally:
            partial.unlink(missing_ok=True)

    def _fetch(self, key: str, target: Path) -> None:
        path = self._path(key)
        partial = target.with_name(f".{target.name}.{uuid4().hex}{_PARTIAL_SUFFIX}")
        if not path.is_file():
            raise _missing(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, partial)
            partial.replace(target)
        except FileNotFoundError as error:
            raise _missing(key) from error
        except OSError as error:
            raise storage_error(error, target.parent) from error
        finally:
            partial.unlink(missing_ok=True)

    def _read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError) as error:
            raise _missing(key) from error
        except OSError as error:
            raise storage_error(error, self._root) from error


def storage_error(error: OSError, where: Path) -> DiskFull | Unavailable:
    """What a failed write under `where` means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space is left on the disk that holds {where}: nothing was written; "
            "free some space and try again"
        )
    return Unavailable(f"{where} cannot be used: {describe_os_error(error)}")


def sync_directory(path: Path) -> None:
    """Make a new name in `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _list_files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _missing(key: str) -> NotFound:
    return NotFound(f"object {key} does not exist")


def _copy(source: Path, partial: Path) -> None:
    with source.open("rb") as reader, partial.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def _write(data: bytes, partial: Path) -> None:
    with partial.open("xb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())
