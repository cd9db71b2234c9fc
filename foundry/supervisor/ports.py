"""What the supervisor asks of the cluster, as Protocols; Ray's side lies in `ray_jobs` and
`serve_engines`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from foundry.execution.jobs.placement import NodeResources
from foundry.serving.endpoints.domain import EndpointSnapshot, RevisionSnapshot, Strategy

EngineStatus = Literal["absent", "starting", "running", "unhealthy", "failed", "deleting"]


@dataclass(frozen=True, slots=True)
class EngineObservation:
    """One engine application as the cluster reports it.

    Attributes:
        status: `starting` covers every change under way, scaling included; `unhealthy`: a replica
            that ran has died.
        ready: replicas that take requests.
    """

    status: EngineStatus
    message: str = ""
    ready: int = 0


ABSENT = EngineObservation("absent")


@dataclass(frozen=True, slots=True)
class Validation:
    """Whether a revision can be started here.

    Attributes:
        reasons: why no cluster could run it as it is configured.
        missing: what this cluster lacks at the moment; nodes may still join.
        strategy: whether its engine may start beside the one that it replaces.
    """

    reasons: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    strategy: Strategy = "recreate"


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a model's files are on their way to where the engine will read them."""

    done: bool
    bytes_done: int = 0
    bytes_total: int = 0


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
    """Ray's job submission. Every call has a deadline.

    Raises:
        Unavailable: Ray did not answer, or not what it should; the call may be repeated.
    """

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        """Start the driver of a job; a known submission id changes nothing."""

    async def observe(self, submission_id: str) -> DriverObservation: ...

    async def end(self, submission_id: str) -> DriverObservation:
        """Stop a driver, see it ended and kill its actors; an unknown one has ended."""

    async def list_nodes(self) -> list[NodeResources]:
        """What the cluster has and what is free."""


class ActingRight(Protocol):
    """The lease under which one supervisor acts."""

    async def confirm(self) -> None:
        """Ask immediately before an effect on the cluster.

        Raises:
            LeaseLost: another supervisor acts, or may by now.
        """


class EngineHost(Protocol):
    """Ray Serve's engine applications. Every call may be repeated."""

    async def observe(self) -> Mapping[str, EngineObservation]:
        """Every engine application of the cluster by name."""

    async def validate(
        self, endpoint: EndpointSnapshot, revision: RevisionSnapshot
    ) -> Validation: ...

    async def transfer(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> Transfer:
        """Begin, or look after, the fetching of the model's files."""

    async def deploy(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> None:
        """Start the revision's application, or bring it to the wanted number of replicas."""

    async def verify(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> None:
        """Short greedy generations, streamed and not.

        Raises:
            EngineFailed: it answers wrongly.
            Unavailable: it takes no request at the moment, died of it or is late.
        """

    async def delete(self, app_name: str, *, now: bool = False) -> None:
        """Begin to remove an application; its running requests end first.

        Args:
            now: kill its replicas and with them these requests.
        """

    async def count_requests(self, app_name: str) -> int | None:
        """Requests that its replicas answer at the moment; None: some replica does not tell."""
