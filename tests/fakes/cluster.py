"""A cluster that does what a test says, behind the supervisor's Protocols."""

from dataclasses import dataclass, field
from uuid import UUID

from foundry.errors import EngineFailed
from foundry.serving.endpoints.domain import EndpointSnapshot
from foundry.supervisor.ports import EngineObservation


@dataclass
class FakeLauncher:
    submitted: list[tuple[str, UUID]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        self.submitted.append((submission_id, job_id))

    async def stop(self, submission_id: str) -> None:
        self.stopped.append(submission_id)


@dataclass
class FakeEngines:
    """Applications by name; `fault` is what verification finds."""

    applications: dict[str, EngineObservation] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)
    fault: str | None = None

    async def deploy(self, endpoint: EndpointSnapshot) -> None:
        self.applications[endpoint.app_name] = EngineObservation("starting")

    async def observe(self, app_name: str) -> EngineObservation:
        return self.applications.get(app_name, EngineObservation("absent"))

    async def verify(self, endpoint: EndpointSnapshot) -> None:
        self.verified.append(endpoint.app_name)
        if self.fault is not None:
            raise EngineFailed(self.fault)

    async def delete(self, app_name: str) -> None:
        self.applications.pop(app_name, None)
        self.deleted.append(app_name)
