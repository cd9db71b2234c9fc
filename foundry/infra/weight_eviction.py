"""Keeping a node's weight cache below its limit; `weights` describes the files."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foundry.infra.weights import IN_USE_S, is_digest, try_lock_digest

_PARTIAL, _DELETED = ".partial", ".deleted"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A complete directory of a node's cache.

    Attributes:
        size: bytes.
        used_at: when it was last fetched or handed out, as a Unix time.
    """

    path: Path
    size: int
    used_at: float


def evict_weights(cache: Path, limit_bytes: int, now: float) -> list[str]:
    """Remove the least recently used directories above the limit, and what killed processes left.

    Returns the names of the directories.
    """
    if not cache.is_dir():
        return []
    remove_leftovers(cache)
    chosen = choose_evictions(list_entries(cache), limit_bytes, now)
    return [path.name for path in chosen if _evict(path, now)]


def list_entries(cache: Path) -> list[CacheEntry]:
    """The complete directories; one that goes meanwhile is left out."""
    entries = []
    for path in sorted(cache.iterdir()):
        # An engine's own cache lies beside them and is not ours to remove.
        if not is_digest(path.name) or not path.is_dir():
            continue
        try:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            entries.append(CacheEntry(path, size, path.stat().st_mtime))
        except FileNotFoundError:
            continue
    return entries


def choose_evictions(entries: Sequence[CacheEntry], limit_bytes: int, now: float) -> list[Path]:
    """The least recently used ones above the limit; none that may be about to be opened."""
    excess = sum(entry.size for entry in entries) - limit_bytes
    chosen = []
    for entry in sorted(entries, key=lambda each: each.used_at):
        if excess <= 0 or now - entry.used_at < IN_USE_S:
            break
        chosen.append(entry.path)
        excess -= entry.size
    return chosen


def remove_leftovers(cache: Path) -> None:
    """Remove what fetches and evictions that were killed have left; none that are under way."""
    for path in [*cache.glob(f".*{_PARTIAL}"), *cache.glob(f".*{_DELETED}")]:
        digest = path.name.removeprefix(".").removesuffix(path.suffix)
        with try_lock_digest(cache, digest) as locked:
            if locked:
                shutil.rmtree(path, ignore_errors=True)


def _evict(path: Path, now: float) -> bool:
    """Whether the directory is gone; one that was handed out since it was listed stays."""
    doomed = path.with_name(f".{path.name}{_DELETED}")
    with try_lock_digest(path.parent, path.name) as locked:
        try:
            if not locked or now - path.stat().st_mtime < IN_USE_S:
                return False
            # Renamed first: nobody finds half a directory.
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
        except FileNotFoundError:
            return False
        shutil.rmtree(doomed, ignore_errors=True)
    return True
