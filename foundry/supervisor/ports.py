"""What the supervisor asks of the cluster, as Protocols; Ray's side lies in `ray_jobs` and
`serve_engines`."""

from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from foundry.execution.jobs.service import NodeResources
from foundry.serving.endpoints.domain import EndpointSnapshot

EngineStatus = Literal["absent", "starting", "running", "failed"]


@dataclass(frozen=True, slots=True)
class EngineObservation:
    status: EngineStatus
    message: str = ""


DriverStatus = Literal["absent", "pending", "running", "ended"]


@dataclass(frozen=True, slots=True)
class DriverObservation:
    """What Ray knows of a driver.

    Attributes:
        status: absent: Ray does not know it, or no longer.
        message: Ray's words, for the job's log only.
        exit_code: of its process, once it has ended.
        log_tail: its last lines.
    """

    status: DriverStatus
    message: str = ""
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()

    @property
    def gone(self) -> bool:
        return self.status in ("absent", "ended")


class JobLauncher(Protocol):
    """Ray's job submission. Every call has a deadline and raises what Ray raises."""

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        """Start the driver of a job; a known submission id changes nothing."""

    async def observe(self, submission_id: str) -> DriverObservation: ...

    async def end(self, submission_id: str) -> DriverObservation:
        """Stop a driver, see it ended and kill its actors; an unknown one has ended."""

    async def list_nodes(self) -> list[NodeResources]:
        """What the cluster has and what is free."""


class EngineHost(Protocol):
    """Ray Serve's engine applications."""

    async def deploy(self, endpoint: EndpointSnapshot) -> None: ...

    async def observe(self, app_name: str) -> EngineObservation: ...

    async def verify(self, endpoint: EndpointSnapshot) -> None:
        """One short greedy generation. Raises EngineFailed."""

    async def delete(self, app_name: str) -> None: ...
