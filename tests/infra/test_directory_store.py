import asyncio
import errno
import os
from pathlib import Path

import pytest

from foundry.errors import Conflict, DiskFull, InvalidRequest, NotFound
from foundry.infra.directory_store import DirectoryStore


async def test_an_object_comes_back_as_it_went_in(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "objects")
    source = tmp_path / "in.bin"
    source.write_bytes(b"weights" * 1000)
    await store.put_file("blobs/ab/cd", source)
    await store.get_file("blobs/ab/cd", tmp_path / "deep" / "out.bin")
    assert (tmp_path / "deep" / "out.bin").read_bytes() == source.read_bytes()
    assert await store.get_bytes("blobs/ab/cd") == source.read_bytes()
    assert await store.exists("blobs/ab/cd")


async def test_a_key_is_written_once(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    await store.put_bytes("key", b"first")
    with pytest.raises(Conflict, match="key exists already"):
        await store.put_bytes("key", b"second")
    assert await store.get_bytes("key") == b"first"


async def test_of_two_writers_at_once_one_wins(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    results = await asyncio.gather(
        *(store.put_bytes("key", bytes([number]) * 4096) for number in range(8)),
        return_exceptions=True,
    )
    assert sum(result is None for result in results) == 1
    assert len(set(await store.get_bytes("key"))) == 1


async def test_a_missing_object_is_named(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    with pytest.raises(NotFound, match="object a/b does not exist"):
        await store.get_bytes("a/b")
    with pytest.raises(NotFound):
        await store.get_file("a/b", tmp_path / "target")
    assert not await store.exists("a/b")
    await store.delete("a/b")


@pytest.mark.parametrize("key", ["", "../up", "a//b", "/root", "a/./b", "a/\0"])
async def test_a_key_cannot_leave_the_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await DirectoryStore(tmp_path).put_bytes(key, b"")


async def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = DirectoryStore(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="free some space"):
        await store.put_bytes("folder/key", b"x" * 4096)
    monkeypatch.undo()
    assert list((tmp_path / "folder").iterdir()) == []
    await store.put_bytes("folder/key", b"x")


async def test_objects_are_listed_in_pages_and_unfinished_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry.infra.directory_store._PAGE", 2)
    store = DirectoryStore(tmp_path)
    for key in ("a/x/1", "a/x/2", "a/3", "b/4"):
        await store.put_bytes(key, b"x")
    os.utime(tmp_path / "a" / "3", (1000, 1000))
    partial = tmp_path / "a" / ".5.0123.partial"
    partial.write_bytes(b"half")
    pages = [page async for page in store.list_pages("a/")]
    assert sorted(len(page) for page in pages) == [1, 2]
    found = {each.key: each.stored_at for page in pages for each in page}
    assert found.keys() == {"a/x/1", "a/x/2", "a/3"}
    assert found["a/3"] == 1000
    assert [page async for page in store.list_pages("none/")] == []
    assert await store.remove_unfinished(3600) == 0, "it may be on its way"
    os.utime(partial, (1000, 1000))
    assert await store.remove_unfinished(3600) == 1
    assert not partial.exists()
    assert await store.exists("a/3")
