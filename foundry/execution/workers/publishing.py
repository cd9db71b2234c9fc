"""Registering what a job made."""

from pathlib import Path

from foundry.catalog.registry.service import Registry
from foundry.execution.jobs.service import hold
from foundry.execution.workers.messages import Publication, Published
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import job_principal
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore


async def publish(
    database: Database, objects: ObjectStore, publication: Publication, directory: Path
) -> Published:
    """Register the files of `directory`; repeating it for the same job returns the same version.

    Raises:
        InvalidArtifact: the files are not what they claim; nothing is registered.
        LeaseLost: another attempt has taken over; nothing is registered.
    """
    principal = job_principal(publication.tenant_id, publication.project_id, publication.job_id)
    async with database.begin() as db:
        audit = AuditTrail(db, principal, f"job-{publication.job_id}")
        version = await Registry(db, objects, audit, principal).register(
            publication.spec, directory
        )
        # Last, so that the job's row is locked for a moment only. A worker whose attempt is over
        # registers nothing.
        await hold(db, publication.job_id, publication.fence)
        return Published(version.id, version.reference, version.digest)
