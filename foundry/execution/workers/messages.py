"""What travels between a job's driver and its worker: ids, digests and plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from foundry.catalog.registry.domain import VersionSpec
from foundry.engines.training.config import SftConfig
from foundry.execution.jobs.domain import Phase
from foundry.infra.objects import FileRef


@dataclass(frozen=True, slots=True)
class Inputs:
    """Immutable files that a worker fetches by digest."""

    digest: str
    files: tuple[FileRef, ...]


@dataclass(frozen=True, slots=True)
class SftTask:
    """One attempt at a fine-tuning job.

    Attributes:
        fence: of the attempt; its files and checkpoints carry it.
        threads: for arithmetic, as many as CPUs are reserved.
        began: when the job was made; templates that print the date are told this one.
    """

    job_id: UUID
    fence: int
    base: Inputs
    dataset: Inputs
    config: SftConfig
    threads: int
    began: datetime


@dataclass(frozen=True, slots=True)
class Publication:
    """A finished result to register, on behalf of the job's attempt."""

    tenant_id: UUID
    project_id: UUID
    job_id: UUID
    fence: int
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


@dataclass(frozen=True, slots=True)
class Pulse:
    """Where a worker is, for the watchdog.

    Attributes:
        marker: another one than before: there is progress.
        step_s: moving time of an optimiser step.
    """

    phase: Phase
    marker: tuple[int, ...] = ()
    step_s: float | None = None


def describe_numbers(metrics: Mapping[str, float]) -> str:
    """For a line of the log."""
    return ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
