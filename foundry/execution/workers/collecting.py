"""The garbage collector: what ended jobs leave in the object store and on nodes."""

import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from foundry.errors import Conflict, DatabaseUnavailable, Unavailable
from foundry.execution.jobs.retention import (
    list_collectable_jobs,
    list_unarchived_jobs,
    mark_archived,
    mark_collected,
    read_log,
)
from foundry.execution.jobs.service import Job
from foundry.execution.workers.checkpoints import RemoteCheckpoints
from foundry.execution.workers.sft import jobs_directory
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore

# A process that was just told of a directory opens it within this; so does one that starts.
_IN_USE_S = 3600.0
# Of 50 jobs each; the rest has the next turn.
_MOST_PAGES = 10

log = logging.getLogger(__name__)


class JobCollector:
    """Archives logs and removes checkpoints of ended jobs.

    Args:
        resumable_s: how long a failed or cancelled job can be resumed from its checkpoints.
    """

    def __init__(self, database: Database, objects: ObjectStore, resumable_s: float) -> None:
        self._database = database
        self._objects = objects
        self._resumable_s = resumable_s

    async def collect(self) -> None:
        """One turn; what fails holds up no other job and is found again by the next.

        Raises:
            Unavailable: of some job something is left.
        """
        left = [
            *await self._collect_each(
                lambda failed: list_unarchived_jobs(self._database, skipped=failed),
                self._archive_log,
            ),
            *await self._collect_each(
                lambda failed: list_collectable_jobs(
                    self._database, self._resumable_s, skipped=failed
                ),
                self._remove_checkpoints,
            ),
        ]
        if left:
            raise Unavailable(f"jobs of which something is left: {', '.join(map(str, left))}")

    async def _collect_each(
        self,
        list_jobs: Callable[[Collection[UUID]], Awaitable[Sequence[Job]]],
        step: Callable[[Job], Awaitable[None]],
    ) -> list[UUID]:
        """Returns the jobs whose step failed.

        Args:
            list_jobs: a page without those that failed: they are listed first, and a page full of
                them would hide all others.
        """
        failed: list[UUID] = []
        for _ in range(_MOST_PAGES):
            jobs = await list_jobs(failed)
            for job in jobs:
                try:
                    await step(job)
                except DatabaseUnavailable:
                    # It would fail for each of them, after a wait.
                    raise
                except Exception:
                    log.exception("what job %s left cannot be collected now", job.id)
                    failed.append(job.id)
            if not jobs:
                break
        return failed

    async def _remove_checkpoints(self, job: Job) -> None:
        checkpoints = RemoteCheckpoints(self._database, self._objects, job.id, job.fence)
        if not await checkpoints.prune(0):
            raise Unavailable("the object store does not remove its checkpoints")
        await mark_collected(self._database, job)

    async def _archive_log(self, job: Job) -> None:
        # The fence tells the ends of a resumed job apart.
        key = f"logs/{job.tenant_id}/{job.id}/{job.fence}.txt"
        data = (await read_log(self._database, job.id)).encode()
        # An earlier turn may have stored it and died before it said so.
        with suppress(Conflict):
            await self._objects.put_bytes(key, data)
        await mark_archived(self._database, job, key)


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory of a node's cache.

    Attributes:
        used_at: when a file of it was last read, as a Unix time.
    """

    path: Path
    size: int
    used_at: float


def list_leftovers(home: Path, active: Collection[UUID], now: float) -> list[Path]:
    """Work directories of jobs that have ended, and of imports that were killed.

    A young one may be of a job that was resumed a moment ago.
    """
    keep = {str(job_id) for job_id in active}
    jobs = (path for path in jobs_directory(home).glob("[!.]*") if path.name not in keep)
    return sorted(
        path
        for path in (*jobs, *home.glob("import-*"))
        if path.is_dir() and now - _changed_at(path) >= _IN_USE_S
    )


def _changed_at(folder: Path) -> float:
    """When anything below was last written."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def list_cached(cache: Path) -> list[Entry]:
    """Complete directories of a node's cache; what is being fetched has a dot before its name."""
    if not cache.is_dir():
        return []
    entries = []
    for path in sorted(cache.iterdir()):
        if not path.is_dir() or path.name.startswith("."):
            continue
        stats = [path.stat(), *(file.stat() for file in path.rglob("*") if file.is_file())]
        used_at = max(max(stat.st_atime, stat.st_mtime) for stat in stats)
        entries.append(Entry(path, sum(stat.st_size for stat in stats[1:]), used_at))
    return entries


def choose_evictions(entries: Sequence[Entry], limit_bytes: int, now: float) -> list[Path]:
    """The least recently used ones above the limit; none that may be about to be opened."""
    excess = sum(entry.size for entry in entries) - limit_bytes
    chosen = []
    for entry in sorted(entries, key=lambda each: each.used_at):
        if excess <= 0 or now - entry.used_at < _IN_USE_S:
            break
        chosen.append(entry.path)
        excess -= entry.size
    return chosen


def clean_node(home: Path, cache: Path, active: Collection[UUID], limit_bytes: int) -> list[str]:
    """Remove work directories of ended jobs and what the cache has too much. Returns the names."""
    now = time.time()
    evicted = choose_evictions(list_cached(cache), limit_bytes, now)
    removed = [*list_leftovers(home, active, now), *evicted]
    for path in removed:
        # Renamed first: nobody finds half a directory. What an earlier turn left goes, too.
        doomed = path.with_name(f".{path.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return [path.name for path in removed]
