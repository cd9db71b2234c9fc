"""The log of a DiLoCo run: the driver writes it under its lease, the job's owner reads it."""

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import Conflict
from foundry.execution.fleets.domain import FleetEvent, RoundRecord
from foundry.execution.fleets.repository import FleetRecords, FleetRows, list_checkpoints
from foundry.execution.fleets.tables import DilocoEvent, DilocoRound
from foundry.execution.jobs.leases import renew_lease
from foundry.execution.jobs.retention import list_active_ids
from foundry.execution.jobs.service import Jobs
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database

__all__ = [
    "STORAGE",
    "DilocoEvent",
    "DilocoRound",
    "FleetLog",
    "Fleets",
    "list_known_states",
    "storage_prefix",
]

STORAGE = "fleets/"


class FleetLog:
    """One attempt's log of its job. What is in it has happened; what is not has not.

    Every write raises LeaseLost, and changes nothing, once another attempt has taken over.
    """

    def __init__(self, database: Database, job_id: UUID, fence: int) -> None:
        self._database = database
        self._job_id = job_id
        self._fence = fence

    async def commit(self, record: RoundRecord, events: Sequence[FleetEvent] = ()) -> None:
        """Make a round count. The newest round again, with its digest, changes nothing: the
        answer to a commit may be lost.

        Raises:
            Conflict: it is not the round after the newest one.
        """
        async with self._hold_lease() as (records, tenant_id):
            newest = await records.find_newest()
            number = 0 if newest is None else newest.round
            if newest is not None and (number, newest.digest) == (record.round, record.digest):
                return
            if record.round != number + 1:
                raise Conflict(
                    f"job {self._job_id}: round {record.round} cannot be committed after round "
                    f"{number}; resume from the newest checkpoint"
                )
            await records.add_round(tenant_id, record)
            await records.append_events(tenant_id, events)

    async def keep(self, round: int, checkpoint: dict[str, Any] | None) -> None:
        """Note where the state after a committed round lies; replaces an earlier note.

        Args:
            checkpoint: None: it is not kept any more.

        Raises:
            Conflict: that round is not committed.
        """
        async with self._hold_lease() as (records, _):
            if not await records.keep_checkpoint(round, checkpoint):
                raise Conflict(
                    f"job {self._job_id}: round {round} is not committed, so nothing resumes there"
                )

    async def note(self, events: Sequence[FleetEvent]) -> None:
        """Record events between two rounds."""
        async with self._hold_lease() as (records, tenant_id):
            await records.append_events(tenant_id, events)

    async def rewind(self, round: int) -> None:
        """Resume after `round`: later rounds never happened. 0: nothing has.

        Raises:
            Conflict: there is no such round.
        """
        async with self._hold_lease() as (records, tenant_id):
            newest = await records.find_newest()
            number = 0 if newest is None else newest.round
            if not 0 <= round <= number:
                raise Conflict(
                    f"job {self._job_id}: there is no round {round} to resume after; the newest is "
                    f"{number}"
                )
            lost = await records.remove_after(round)
            detail = f"rounds {round + 1} to {number} are trained again" if lost else ""
            await records.append_events(tenant_id, [FleetEvent(round, "", "resumed", detail)])

    async def newest(self) -> RoundRecord | None:
        async with self._database.begin() as db:
            return await FleetRecords(db, self._job_id).find_newest()

    async def checkpoints(self) -> Sequence[RoundRecord]:
        """Rounds after which the fleet's state is kept, oldest first."""
        async with self._database.begin() as db:
            return await FleetRecords(db, self._job_id).list_checkpoints()

    async def forget_checkpoints(self) -> None:
        """Forget where checkpoints lie, once nothing resumes the job; that needs no lease."""
        async with self._database.begin() as db:
            await FleetRecords(db, self._job_id).forget_checkpoints()

    async def history(self) -> tuple[FleetEvent, ...]:
        """Everything that happened, in order, over all attempts."""
        async with self._database.begin() as db:
            return await FleetRecords(db, self._job_id).list_events()

    @asynccontextmanager
    async def _hold_lease(self) -> AsyncIterator[tuple[FleetRecords, UUID]]:
        """The records and their tenant, in a transaction that holds the lease."""
        async with self._database.begin() as db:
            job = await renew_lease(db, self._job_id, self._fence)
            yield FleetRecords(db, self._job_id), job.tenant_id


class Fleets:
    """Rounds and membership of the jobs of the principal's project."""

    def __init__(self, db: AsyncSession, jobs: Jobs, principal: Principal) -> None:
        self._jobs = jobs
        self._rows = FleetRows(db, principal.tenant_id)

    async def rounds(self, job_id: UUID, *, after: int, limit: int) -> Sequence[DilocoRound]:
        """Rounds above `after`, oldest first; a job without a fleet has none.

        Raises:
            NotFound: there is no such job.
        """
        await self._jobs.get(job_id)
        return await self._rows.list_rounds(job_id, after, limit)

    async def members(self, job_id: UUID, *, after: int, limit: int) -> Sequence[DilocoEvent]:
        """What happened to the members, numbers above `after`, oldest first.

        Raises:
            NotFound: there is no such job.
        """
        await self._jobs.get(job_id)
        return await self._rows.list_events(job_id, after, limit)


def storage_prefix(job_id: UUID) -> str:
    """What the keys of a job's checkpoints begin with; a slash and a digest follow."""
    return f"{STORAGE}{job_id}"


async def list_known_states(database: Database, keys: Collection[str]) -> set[str]:
    """Those of `keys` that a checkpoint names, or whose job has not ended.

    A key is the digest of its bytes, so an attempt may name tomorrow what none names today. A key
    that is not of this form is somebody else's.
    """
    job_of: dict[str, UUID] = {}
    for key in keys:
        with suppress(ValueError):
            job_of[key] = UUID(key.removeprefix(STORAGE).split("/")[0])
    active = await list_active_ids(database)
    async with database.begin() as db:
        documents = await list_checkpoints(db, set(job_of.values()))
    named = {key for document in documents for key in _list_keys(document)}
    own = {key for key, job_id in job_of.items() if key in named or job_id in active}
    return own | (set(keys) - job_of.keys())


def _list_keys(document: Any) -> Iterator[str]:
    """The object keys of a checkpoint; its shape is the driver's affair."""
    if isinstance(document, dict):
        if isinstance(key := document.get("object_key"), str):
            yield key
        for value in document.values():
            yield from _list_keys(value)
