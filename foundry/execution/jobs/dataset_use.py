"""Which versions of datasets jobs read."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.execution.jobs.repository import JobRows
from foundry.governance.identity.domain import Principal
from foundry.infra.version_use import VersionUse


class JobsReading:
    """Tells the datasets which of their versions an active job reads."""

    def __init__(self, db: AsyncSession, principal: Principal) -> None:
        self._rows = JobRows(db, principal.tenant_id, principal.project_id)

    async def find_use(self, version_ids: Collection[UUID]) -> VersionUse | None:
        job = await self._rows.find_reader(version_ids)
        if job is None:
            return None
        read = UUID(str(job.spec["dataset_version_id"]))
        return VersionUse(read, f"job {job.id} ({job.name}, {job.state})")
