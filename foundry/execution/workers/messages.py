"""What travels between a job's driver and its worker: ids, digests and plain values."""

from dataclasses import dataclass
from uuid import UUID

from foundry.catalog.registry.domain import VersionSpec
from foundry.engines.training.config import SftConfig
from foundry.infra.objects import FileRef


@dataclass(frozen=True, slots=True)
class Inputs:
    """Immutable files that a worker fetches by digest."""

    digest: str
    files: tuple[FileRef, ...]


@dataclass(frozen=True, slots=True)
class SftTask:
    """One fine-tuning job; every attempt gets the same task."""

    job_id: UUID
    base: Inputs
    dataset: Inputs
    config: SftConfig


@dataclass(frozen=True, slots=True)
class Publication:
    """A finished result to register, on behalf of the job."""

    tenant_id: UUID
    project_id: UUID
    job_id: UUID
    spec: VersionSpec


@dataclass(frozen=True, slots=True)
class Published:
    """The registered version."""

    version_id: UUID
    reference: str
    digest: str


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a worker: words for people, numbers for charts."""

    phase: str
    step: int = 0
    total_steps: int = 0
    metrics: dict[str, float] | None = None
