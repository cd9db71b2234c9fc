"""Registering what a job made."""

from pathlib import Path

from foundry.catalog.registry.files import Selection
from foundry.catalog.registry.registrar import Registrar
from foundry.execution.jobs.leases import renew_lease
from foundry.execution.workers.messages import Publication, Published
from foundry.governance.identity.domain import job_principal
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore


async def publish(
    database: Database, objects: ObjectStore, publication: Publication, files: Path | Selection
) -> Published:
    """Register a directory, or what was selected of one.

    Repeating it for the same job returns the same version.

    Raises:
        InvalidArtifact: the files are not what they claim; nothing is registered.
        LeaseLost: another attempt has taken over; nothing is registered.
    """
    principal = job_principal(publication.tenant_id, publication.project_id, publication.job_id)
    registrar = Registrar(database, objects, principal, f"job-{publication.job_id}")
    version = await registrar.register(
        publication.spec,
        files,
        # Last, so that the job's row is locked for a moment only. A worker whose attempt is over
        # registers nothing.
        confirm=lambda db: renew_lease(db, publication.job_id, publication.fence),
    )
    return Published(version.id, version.reference, version.digest)
