import asyncio
import hashlib
from pathlib import Path

import pytest

from foundry.errors import InvalidArtifact, NotFound
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.objects import FileRef
from foundry.infra.weights import WeightCache

_DIGEST = "ab" * 32


class _Counting(DirectoryStore):
    fetched = 0

    async def get_file(self, key: str, target: Path) -> None:
        self.fetched += 1
        await super().get_file(key, target)


async def _store(tmp_path: Path, content: bytes = b"weights") -> tuple[_Counting, FileRef]:
    store = _Counting(tmp_path / "objects")
    await store.put_bytes("blob", content)
    digest = hashlib.sha256(content).hexdigest()
    return store, FileRef("sub/model.safetensors", digest, len(content), "blob")


async def test_files_are_fetched_once_for_many_callers(tmp_path: Path) -> None:
    store, file = await _store(tmp_path)
    caches = [WeightCache(store, tmp_path / "cache") for _ in range(4)]
    folders = await asyncio.gather(*(cache.ensure(_DIGEST, [file]) for cache in caches))
    assert set(folders) == {tmp_path / "cache" / _DIGEST}
    assert (folders[0] / file.path).read_bytes() == b"weights"
    assert store.fetched == 1


async def test_a_damaged_object_leaves_nothing_and_heals(tmp_path: Path) -> None:
    store, file = await _store(tmp_path)
    cache = WeightCache(store, tmp_path / "cache")
    await store.delete("blob")
    await store.put_bytes("blob", b"wEights")
    with pytest.raises(InvalidArtifact, match=r"model\.safetensors is damaged"):
        await cache.ensure(_DIGEST, [file])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f".{_DIGEST}.lock"]
    await store.delete("blob")
    await store.put_bytes("blob", b"weights")
    assert (await cache.ensure(_DIGEST, [file])).is_dir()


async def test_a_killed_fetch_is_cleaned_up(tmp_path: Path) -> None:
    store, file = await _store(tmp_path)
    leftover = tmp_path / "cache" / f".{_DIGEST}.partial"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"x")
    folder = await WeightCache(store, tmp_path / "cache").ensure(_DIGEST, [file])
    assert [path.name for path in folder.iterdir()] == ["sub"]
    assert not leftover.exists()


@pytest.mark.parametrize("path", ["../x", "/etc/x", ""])
async def test_a_path_cannot_leave_the_cache(tmp_path: Path, path: str) -> None:
    store, _ = await _store(tmp_path)
    with pytest.raises(InvalidArtifact, match="relative path"):
        await WeightCache(store, tmp_path / "c").ensure(_DIGEST, [FileRef(path, "", 0, "blob")])


async def test_a_missing_object_leaves_nothing(tmp_path: Path) -> None:
    store, file = await _store(tmp_path)
    await store.delete("blob")
    with pytest.raises(NotFound):
        await WeightCache(store, tmp_path / "cache").ensure(_DIGEST, [file])
    assert not (tmp_path / "cache" / _DIGEST).exists()
