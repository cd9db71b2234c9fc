"""A cluster that does what a test says, behind the supervisor's Protocols."""

from dataclasses import dataclass, field
from uuid import UUID

from foundry.errors import EngineFailed
from foundry.execution.jobs.admission import Bundle, NodeResources
from foundry.serving.endpoints.domain import EndpointSnapshot
from foundry.supervisor.ports import DriverObservation, EngineObservation


@dataclass
class FakeLauncher:
    """Drivers by submission id. `faults`: what Ray raises, by the call's name."""

    submitted: list[tuple[str, UUID]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    drivers: dict[str, DriverObservation] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    nodes: list[NodeResources] = field(
        default_factory=lambda: [NodeResources(Bundle(cpus=64), Bundle(cpus=64))]
    )

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        self._raise("submit")
        if submission_id not in self.drivers:
            self.submitted.append((submission_id, job_id))
            self.drivers[submission_id] = DriverObservation("running")

    async def observe(self, submission_id: str) -> DriverObservation:
        self._raise("observe")
        return self.drivers.get(submission_id, DriverObservation("absent"))

    async def end(self, submission_id: str) -> DriverObservation:
        self._raise("end")
        self.ended.append(submission_id)
        seen = await self.observe(submission_id)
        if seen.status == "running":
            self.drivers[submission_id] = DriverObservation("ended", "stopped", -15)
        return await self.observe(submission_id)

    async def list_nodes(self) -> list[NodeResources]:
        self._raise("list_nodes")
        return self.nodes

    def _raise(self, call: str) -> None:
        if fault := self.faults.get(call):
            raise fault


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
