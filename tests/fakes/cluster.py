"""A cluster that does what a test says, behind the supervisor's Protocols."""

from dataclasses import dataclass, field
from uuid import UUID

from foundry.errors import EngineFailed
from foundry.serving.endpoints.domain import EndpointSnapshot, RevisionSnapshot
from foundry.supervisor.ports import EngineObservation, EngineStatus, Transfer, Validation


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
    """Applications by name, as Ray Serve would report them.

    Attributes:
        comes_up: what a new application is reported as.
        fault: what verification finds.
        raises: by the name of a method, what it raises instead of answering.
        calls: of every method but `observe`, in order.
    """

    applications: dict[str, EngineObservation] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)
    deployed: list[tuple[str, int]] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    comes_up: EngineStatus = "starting"
    validation: Validation = field(default_factory=lambda: Validation(strategy="surge"))
    transferred: Transfer = field(default_factory=lambda: Transfer(done=True))
    fault: str | None = None
    raises: dict[str, Exception] = field(default_factory=dict)

    async def observe(self) -> dict[str, EngineObservation]:
        if error := self.raises.get("observe"):
            raise error
        return dict(self.applications)

    async def validate(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> Validation:
        self._called("validate", revision.app_name)
        return self.validation

    async def transfer(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> Transfer:
        self._called("transfer", revision.app_name)
        return self.transferred

    async def deploy(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> None:
        self._called("deploy", revision.app_name)
        self.deployed.append((revision.app_name, revision.replicas))
        if revision.app_name not in self.applications:
            self.applications[revision.app_name] = EngineObservation(self.comes_up)

    async def verify(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> None:
        self._called("verify", revision.app_name)
        self.verified.append(revision.app_name)
        if self.fault is not None:
            raise EngineFailed(self.fault)

    async def delete(self, app_name: str) -> None:
        self._called("delete", app_name)
        self.applications.pop(app_name, None)
        self.deleted.append(app_name)

    def _called(self, method: str, app_name: str) -> None:
        self.calls.append((method, app_name))
        if error := self.raises.get(method):
            raise error
