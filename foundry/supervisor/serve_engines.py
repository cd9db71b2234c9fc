"""Engines as applications of Ray Serve.

Every call into Ray runs in a small pool of threads of its own and has a deadline: a frozen Ray
holds these threads, not those that the rest of the process uses. What Ray raises becomes
`Unavailable`: the call may be repeated.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from ray import serve
from ray.serve import Application, RunTarget
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ServeStatus

from foundry.errors import Unavailable
from foundry.serving.endpoints.domain import APP_PREFIX, EndpointSnapshot, RevisionSnapshot
from foundry.serving.engine.deployment import DEPLOYMENT
from foundry.serving.engine.hardware import Hardware, LiveHardware
from foundry.serving.engine.options import EngineOptions
from foundry.serving.engine.runtime import RuntimeRules, fits_beside
from foundry.serving.engine.shape import ModelShape
from foundry.supervisor.model_shapes import EndpointShapes
from foundry.supervisor.ports import EngineObservation, EngineStatus, Transfer, Validation
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.serve_replicas import count_running_requests, kill_replicas
from foundry.supervisor.transfers import Transfers

_STATUS: dict[ApplicationStatus, EngineStatus] = {
    ApplicationStatus.NOT_STARTED: "starting",
    ApplicationStatus.DEPLOYING: "starting",
    ApplicationStatus.UNHEALTHY: "unhealthy",
    ApplicationStatus.RUNNING: "running",
    ApplicationStatus.DEPLOY_FAILED: "failed",
    ApplicationStatus.DELETING: "deleting",
}

_MESSAGE_CHARS = 2000


@dataclass(frozen=True, slots=True)
class EngineBuild:
    """What an engine application is to be built of.

    Attributes:
        config: of the revision: it overrides fields of the settings' serving section and holds
            the engine's options.
        config_digest: of what the replicas are made of; the same one again only changes their
            number.
        hardware: of the cluster, as it is now.
        model: the base's shape.
    """

    base_version_id: UUID
    app_name: str
    config: Mapping[str, Any]
    config_digest: str
    hardware: Hardware
    model: ModelShape


class Runtime(RuntimeRules, Protocol):
    """One kind of engine: its rules, what Serve is to run, and how it proves that it answers."""

    def build(self, wanted: EngineBuild) -> Application:
        """What Serve is to run.

        Raises:
            InvalidConfiguration: this cluster cannot run it.
        """

    async def health(self, app_name: str, model: str) -> None:
        """Whether it answers a test request.

        Raises:
            EngineFailed: it answers wrongly.
            Unavailable: it takes no request at the moment, died of it or is late.
        """


class ServeEngines:
    """Engine applications of this cluster's Ray Serve."""

    def __init__(
        self,
        runtime: Runtime,
        hardware: LiveHardware,
        shapes: EndpointShapes,
        transfers: Transfers,
        calls: RayCalls,
    ) -> None:
        self._runtime = runtime
        self._hardware = hardware
        self._shapes = shapes
        self._transfers = transfers
        self._calls = calls

    async def observe(self) -> dict[str, EngineObservation]:
        """Every engine application by name. Raises Unavailable."""
        status = await self._calls.run(_read_status)
        return {
            name: _observation(found)
            for name, found in status.applications.items()
            if name.startswith(APP_PREFIX)
        }

    async def validate(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> Validation:
        """Check the revision against this cluster. Raises Unavailable."""
        hardware = await self._hardware.read_hardware()
        config = {**revision.config, "replicas": revision.replicas}
        model = await self._shapes.read_shape(endpoint)
        report = self._runtime.supports(config, hardware, model=model)
        options = EngineOptions.of(config)
        beside = fits_beside(options, hardware)
        if options.strategy is not None:
            beside = options.strategy == "surge"
        return Validation(report.reasons, report.missing, "surge" if beside else "recreate")

    async def transfer(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> Transfer:
        """Begin to fetch the files, or look how far it is.

        Raises:
            Unavailable: Ray does not answer.
            FoundryError: a node cannot fetch them.
        """
        return await self._transfers.continue_fetch(endpoint.model_version_id, revision.replicas)

    async def deploy(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> None:
        """Start the application, or bring it to the wanted number of replicas.

        Raises:
            InvalidConfiguration: this cluster cannot run it.
            Unavailable: Ray does not answer.
        """
        hardware = await self._hardware.read_hardware()
        application = self._runtime.build(
            EngineBuild(
                base_version_id=endpoint.model_version_id,
                app_name=revision.app_name,
                config={**revision.config, "replicas": revision.replicas},
                config_digest=revision.config_digest,
                hardware=hardware,
                model=await self._shapes.read_shape(endpoint),
            )
        )
        target = RunTarget(target=application, name=revision.app_name, route_prefix=None)

        def run() -> None:
            # `run_many` would start a Serve of its own, with its own open ports.
            _require_serve()
            serve.run_many(
                [target],
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )

        await self._calls.run(run)

    async def verify(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> None:
        """Send test requests. Raises EngineFailed, Unavailable: see `Runtime.health`."""
        await self._runtime.health(revision.app_name, endpoint.name)

    async def delete(self, app_name: str, *, now: bool = False) -> None:
        """Begin to remove it; an unknown one is gone. Raises Unavailable."""

        def remove() -> None:
            # Not to wait here: the next observation says when it is gone.
            with suppress(KeyError):
                serve.delete(app_name, _blocking=False)
            if now:
                # Not before it is deleted: Serve would start others in their place.
                kill_replicas(app_name)

        await self._calls.run(remove)

    async def count_requests(self, app_name: str) -> int | None:
        """Requests that it answers at the moment; None: unknown, also while Ray does not answer."""
        try:
            return await self._calls.run(lambda: count_running_requests(app_name, DEPLOYMENT))
        except Unavailable:
            return None


def _require_serve() -> None:
    """Refuse to go on in a cluster without Serve. Raises Unavailable."""
    if _get_global_client(raise_if_no_controller_running=False) is None:
        raise Unavailable("Ray Serve does not run")


def _read_status() -> ServeStatus:
    # Without a controller Serve answers that it has no applications: every engine would read as
    # lost, and requests would find none, though replicas may still run.
    _require_serve()
    return serve.status()


def _observation(found: ApplicationStatusOverview) -> EngineObservation:
    message = found.message or "; ".join(
        deployment.message for deployment in found.deployments.values() if deployment.message
    )
    engine = found.deployments.get(DEPLOYMENT)
    states = engine.replica_states if engine is not None else {}
    # By value: the keys are an enumeration in some answers of Ray and text in others.
    ready = sum(count for state, count in states.items() if str(state).endswith("RUNNING"))
    return EngineObservation(_STATUS[found.status], message[-_MESSAGE_CHARS:], ready)
