"""Where attempts work on a node, and what of it may go."""

import shutil
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

# A process that starts opens its directory within this; so does a job that was just resumed.
_YOUNG_S = 3600.0
_DELETED = ".deleted"
# Of an import's directory; the job's id follows.
IMPORT_PREFIX = "import-"


def jobs_directory(home: Path) -> Path:
    """Scratch space of the attempts on this node; what must survive is in the object store."""
    return home / "jobs"


def attempt_directory(home: Path, job_id: UUID, fence: int) -> Path:
    """An attempt's own: one that lives on after its end writes where nobody reads."""
    return jobs_directory(home) / str(job_id) / str(fence)


def remove_work_directories(home: Path, active: Collection[UUID], now: float) -> list[str]:
    """Remove what ended jobs and killed imports have left. Returns the names.

    Args:
        active: jobs that may have a driver on any node.
        now: a Unix time.
    """
    for leftover in (*jobs_directory(home).glob(f".*{_DELETED}"), *home.glob(f".*{_DELETED}")):
        shutil.rmtree(leftover, ignore_errors=True)
    removed = []
    for path in list_leftovers(home, active, now):
        # Renamed first: nobody finds half a directory.
        doomed = path.with_name(f".{path.name}{_DELETED}")
        try:
            path.rename(doomed)
        except FileNotFoundError:
            # An import that ended meanwhile has removed its own.
            continue
        shutil.rmtree(doomed, ignore_errors=True)
        removed.append(path.name)
    return removed


def list_leftovers(home: Path, active: Collection[UUID], now: float) -> list[Path]:
    """Work directories of jobs that have ended, and of imports that were killed.

    A young one may be of a job that was resumed a moment ago.
    """
    keep = {str(job_id) for job_id in active}
    found = (*jobs_directory(home).glob("[!.]*"), *home.glob(f"{IMPORT_PREFIX}*"))
    return sorted(
        path
        for path in found
        if path.name.removeprefix(IMPORT_PREFIX) not in keep
        and path.is_dir()
        and now - _changed_at(path) >= _YOUNG_S
    )


def _changed_at(folder: Path) -> float:
    """When anything below was last written."""
    newest = 0.0
    for path in (folder, *folder.rglob("*")):
        try:
            newest = max(newest, path.stat().st_mtime)
        except FileNotFoundError:
            # Somebody works there.
            return float("inf")
    return newest
