"""What of a node's weight cache goes, and what stays."""

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foundry.infra.directory_store import DirectoryStore
from foundry.infra.objects import FileRef
from foundry.infra.weight_eviction import (
    CacheEntry,
    choose_evictions,
    evict_weights,
    list_entries,
)
from foundry.infra.weights import WeightCache, try_lock_digest

NOW = 1_000_000.0
OLD, OLDER = "aa" * 32, "bb" * 32


def entry(name: str, size: int, hours: float) -> CacheEntry:
    return CacheEntry(Path(name), size, NOW - hours * 3600)


def put(cache: Path, name: str, hours: float, size: int = 100) -> Path:
    folder = cache / name
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "model").write_bytes(b"x" * size)
    os.utime(folder, (NOW - hours * 3600, NOW - hours * 3600))
    return folder


def test_the_least_recently_used_go_until_the_rest_fits() -> None:
    entries = [entry("new", 40, 2), entry("old", 30, 9), entry("older", 50, 20)]
    assert choose_evictions(entries, 120, NOW) == []
    assert choose_evictions(entries, 119, NOW) == [Path("older")]
    assert choose_evictions(entries, 60, NOW) == [Path("older"), Path("old")]
    assert choose_evictions([entry("used", 99, 0.5)], 1, NOW) == [], "it may be about to be read"


def test_what_killed_processes_left_goes_and_what_is_under_way_stays(tmp_path: Path) -> None:
    put(tmp_path, OLD, 2)
    for name in (f".{OLD}.partial", f".{OLDER}.partial", f".{OLDER}.deleted"):
        (tmp_path / name).mkdir()
    with try_lock_digest(tmp_path, OLD) as locked:
        assert locked
        assert evict_weights(tmp_path, 100, NOW) == []
    left = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert left == [f".{OLD}.partial", OLD]
    assert evict_weights(tmp_path / "nowhere", 1, NOW) == []


def test_a_directory_that_is_being_handed_out_stays(tmp_path: Path) -> None:
    put(tmp_path, OLD, 9)
    put(tmp_path, OLDER, 20)
    with try_lock_digest(tmp_path, OLDER):
        assert evict_weights(tmp_path, 0, NOW) == [OLD]
    assert (tmp_path / OLDER).is_dir()
    assert evict_weights(tmp_path, 0, NOW) == [OLDER]
    assert list_entries(tmp_path) == []


def test_a_directory_that_was_used_since_it_was_listed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path, OLD, 9)
    listed = list_entries(tmp_path)
    os.utime(folder, (NOW, NOW))
    monkeypatch.setattr("foundry.infra.weight_eviction.list_entries", lambda cache: listed)
    assert evict_weights(tmp_path, 0, NOW) == []
    assert folder.is_dir()


def test_a_directory_that_goes_meanwhile_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [CacheEntry(tmp_path / OLD, 100, 0.0)]
    monkeypatch.setattr("foundry.infra.weight_eviction.list_entries", lambda cache: listed)
    assert evict_weights(tmp_path, 0, NOW) == []


async def test_use_counts_and_not_reading_or_the_age_of_files(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "objects")
    await store.put_bytes("blob", b"weights")
    file = FileRef("model", hashlib.sha256(b"weights").hexdigest(), 7, "blob")
    cache = tmp_path / "cache"
    weights = WeightCache(store, cache)
    for digest in (OLD, OLDER):
        folder = await weights.ensure(digest, [file])
        assert folder.stat().st_mtime > NOW, "a fetch is a use"
        os.utime(folder, (NOW - 9 * 3600, NOW - 9 * 3600))
    used = await weights.ensure(OLDER, [file])
    now = used.stat().st_mtime + 1
    assert evict_weights(cache, 7, now) == [OLD], "a hit is a use"
    # Whoever reads the files of the other one changes nothing.
    os.utime(used, (NOW, NOW))
    (used / "model").read_bytes()
    assert evict_weights(cache, 0, now) == [OLDER]


_KEEPS = """
import asyncio, sys
from pathlib import Path
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.weights import WeightCache

root, digest = Path(sys.argv[1]), sys.argv[2]
cache = WeightCache(DirectoryStore(root / "objects"), root / "cache")
asyncio.run(cache.ensure(digest, [], keep=True))
print("kept", flush=True)
sys.stdin.read()
"""


def test_what_a_process_keeps_stays_until_it_ends_and_others_may_use_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = put(cache, OLD, 9)
    command = [sys.executable, "-c", _KEEPS, str(tmp_path), OLD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as keeps:
        assert keeps.stdout is not None
        assert keeps.stdin is not None
        assert keeps.stdout.readline() == "kept\n"
        assert (
            asyncio.run(WeightCache(DirectoryStore(tmp_path / "objects"), cache).ensure(OLD, []))
            == folder
        )
        os.utime(folder, (NOW - 9 * 3600, NOW - 9 * 3600))
        assert evict_weights(cache, 0, NOW) == []
        keeps.stdin.close()
        assert keeps.wait(10) == 0
    assert evict_weights(cache, 0, NOW) == [OLD]


def test_what_is_no_version_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "vllm", 900, size=1000)
    assert list_entries(tmp_path) == []
    assert evict_weights(tmp_path, 0, NOW) == []
    assert (tmp_path / "vllm" / "sub" / "model").is_file()
