"""What of an ended job is kept, and for how long."""

from collections.abc import Collection
from uuid import UUID

from foundry.execution.jobs.domain import ENDED
from foundry.execution.jobs.repository import Leases
from foundry.execution.jobs.tables import Job
from foundry.infra.database import Database, utcnow

# The driver's last words come shortly after the end.
LAST_WORDS_S = 60.0
_BATCH = 50


async def list_unarchived_jobs(
    database: Database, ended_s: float = LAST_WORDS_S, skipped: Collection[UUID] = ()
) -> list[Job]:
    """Ended jobs whose log is not all in the object store, without the `skipped` ones."""
    async with database.begin() as db:
        return list(await Leases(db).list_unarchived(ended_s, skipped, _BATCH))


async def list_collectable_jobs(
    database: Database,
    resumable_s: float,
    succeeded_s: float = LAST_WORDS_S,
    skipped: Collection[UUID] = (),
) -> list[Job]:
    """Ended jobs whose checkpoints are to be removed, without the `skipped` ones.

    Args:
        resumable_s: how long a failed or cancelled job can be resumed from its checkpoints.
    """
    async with database.begin() as db:
        rows = Leases(db)
        return list(await rows.list_collectable(succeeded_s, resumable_s, skipped, _BATCH))


async def is_still_ended(database: Database, job: Job) -> bool:
    """Whether the job is as it was listed: not resumed since."""
    async with database.begin() as db:
        found = await Leases(db).get(job.id)
    return found is not None and found.state in ENDED and found.fence == job.fence


async def mark_collected(database: Database, job: Job) -> None:
    """Nothing is left of the job but its rows."""
    async with database.begin() as db:
        await Leases(db).move(job.id, ENDED, held=job.fence, collected_at=utcnow())


async def list_active_ids(database: Database) -> set[UUID]:
    """Jobs that may have files on any node."""
    async with database.begin() as db:
        return await Leases(db).list_active_ids()


async def list_known_objects(database: Database, keys: Collection[str]) -> set[str]:
    """Those of `keys` that a row of a job knows; what none knows was left by a killed upload."""
    async with database.begin() as db:
        return await Leases(db).list_known_keys(keys)
