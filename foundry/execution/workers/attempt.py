"""What every driver of a job does, whatever does the work."""

from dataclasses import dataclass

from foundry.catalog.registry.domain import VersionSpec
from foundry.config import Settings
from foundry.errors import DatabaseUnavailable
from foundry.execution.jobs.service import Job, JobLease
from foundry.execution.workers.messages import Publication, Published
from foundry.infra.database import Database

POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one job, and the lease that it holds."""

    settings: Settings
    database: Database
    lease: JobLease
    job: Job

    async def show(self, progress: dict[str, object]) -> bool:
        """Renew the lease and show how far the job is. Returns whether it shall be cancelled.

        Raises:
            LeaseLost: another attempt has taken over.
        """
        try:
            return await self.lease.heartbeat(progress)
        except DatabaseUnavailable:
            return False

    def publication(self, spec: VersionSpec) -> Publication:
        return Publication(self.job.tenant_id, self.job.project_id, self.job.id, spec)

    async def finish(self, published: Published, metrics: dict[str, float]) -> None:
        """The job has succeeded with this version."""
        await self.lease.finish(
            {
                "version_id": str(published.version_id),
                "model": published.reference,
                "digest": published.digest,
                "metrics": metrics,
            }
        )
