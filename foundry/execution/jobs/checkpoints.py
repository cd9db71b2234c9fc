"""Which checkpoints a job has: rows under the fence of the attempt that wrote them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from foundry.execution.jobs.leases import renew_lease
from foundry.execution.jobs.repository import CheckpointRows
from foundry.execution.jobs.tables import JobCheckpoint
from foundry.infra.database import Database
from foundry.infra.ids import uuid7


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint in the object store.

    Attributes:
        size: bytes.
        fence: of the attempt that wrote it.
        document: what is not a tensor, as JSON values.
    """

    object_key: str
    sha256: str
    size: int
    document: Mapping[str, object]
    fence: int
    id: UUID | None = None


class CheckpointLog:
    """The checkpoints of one job."""

    def __init__(self, database: Database, job_id: UUID) -> None:
        self._database = database
        self._job_id = job_id

    async def add(self, step: int, stored: StoredCheckpoint) -> None:
        """Make a checkpoint count.

        Raises:
            LeaseLost: another attempt has taken over; nothing counts.
        """
        async with self._database.begin() as db:
            job = await renew_lease(db, self._job_id, stored.fence)
            row = JobCheckpoint(
                id=uuid7(),
                job_id=job.id,
                tenant_id=job.tenant_id,
                fence=stored.fence,
                step=step,
                object_key=stored.object_key,
                sha256=stored.sha256,
                size=stored.size,
                document=dict(stored.document),
            )
            await CheckpointRows(db, self._job_id).add(row)

    async def list_newest_first(self) -> Sequence[StoredCheckpoint]:
        async with self._database.begin() as db:
            return [
                StoredCheckpoint(
                    row.object_key, row.sha256, row.size, row.document, row.fence, row.id
                )
                for row in await CheckpointRows(db, self._job_id).list_newest_first()
            ]

    async def remove(self, stale: Sequence[StoredCheckpoint]) -> None:
        """Forget checkpoints whose objects are gone."""
        async with self._database.begin() as db:
            await CheckpointRows(db, self._job_id).remove(
                [stored.id for stored in stale if stored.id is not None]
            )
