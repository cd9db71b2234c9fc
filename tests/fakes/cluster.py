"""A cluster that does what a test says, behind the supervisor's Protocols."""

from dataclasses import dataclass, field
from uuid import UUID

from foundry.errors import EngineFailed, LeaseLost
from foundry.execution.jobs.placement import Bundle, NodeResources
from foundry.serving.endpoints.domain import EndpointSnapshot, RevisionSnapshot
from foundry.supervisor.ports import (
    DriverObservation,
    EngineObservation,
    EngineStatus,
    Transfer,
    Validation,
)


@dataclass
class FakeLauncher:
    """Drivers by submission id.

    Attributes:
        faults: what Ray raises, by the call's name.
        refuses: drivers whose end Ray does not see.
    """

    submitted: list[tuple[str, UUID]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    drivers: dict[str, DriverObservation] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    refuses: set[str] = field(default_factory=set)
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
        if submission_id in self.refuses:
            raise TimeoutError(f"{submission_id} has not ended")
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
class FakeLease:
    """A supervisor's lease that a test takes away."""

    lost: bool = False

    async def confirm(self) -> None:
        if self.lost:
            raise LeaseLost("another supervisor has taken over")


@dataclass
class FakeEngines:
    """Applications by name, as Ray Serve would report them.

    Attributes:
        requests: that an application answers: while there are some it drains.
        killed: applications that were deleted without a drain.
        comes_up: what a new application is reported as.
        fault: what verification finds.
        raises: by the name of a method, what it raises instead of answering.
        calls: of every method but `observe`, in order.
    """

    applications: dict[str, EngineObservation] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    requests: dict[str, int] = field(default_factory=dict)
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

    async def delete(self, app_name: str, *, now: bool = False) -> None:
        self._called("delete", app_name)
        self.deleted.append(app_name)
        if now:
            self.killed.append(app_name)
        if self.requests.get(app_name) and not now:
            self.applications[app_name] = EngineObservation("deleting")
        else:
            self.applications.pop(app_name, None)
            self.requests.pop(app_name, None)

    async def count_requests(self, app_name: str) -> int | None:
        return self.requests.get(app_name, 0)

    def _called(self, method: str, app_name: str) -> None:
        self.calls.append((method, app_name))
        if error := self.raises.get(method):
            raise error
