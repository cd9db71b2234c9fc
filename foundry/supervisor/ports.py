"""What the supervisor asks of the cluster, as Protocols; Ray's side lies in `ray_jobs` and
`serve_engines`."""

from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from foundry.serving.endpoints.domain import EndpointSnapshot

EngineStatus = Literal["absent", "starting", "running", "failed"]


@dataclass(frozen=True, slots=True)
class EngineObservation:
    status: EngineStatus
    message: str = ""


class JobLauncher(Protocol):
    """Ray's job submission."""

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        """Start the driver of a job; a known submission id changes nothing."""

    async def stop(self, submission_id: str) -> None:
        """End a driver that did not stop by itself; an unknown one has ended."""


class EngineHost(Protocol):
    """Ray Serve's engine applications."""

    async def deploy(self, endpoint: EndpointSnapshot) -> None: ...

    async def observe(self, app_name: str) -> EngineObservation: ...

    async def verify(self, endpoint: EndpointSnapshot) -> None:
        """One short greedy generation. Raises EngineFailed."""

    async def delete(self, app_name: str) -> None: ...
