"""The detached actor `supervisor`: Ray's side of what the supervisor decides."""

import asyncio
import logging
import os
import sys
import threading
from typing import Any
from uuid import UUID

import orjson
import ray
from ray import serve
from ray.job_submission import JobSubmissionClient
from ray.serve import RunTarget
from ray.serve.schema import ApplicationStatus

from foundry.config import Settings, load_settings
from foundry.errors import EngineFailed
from foundry.execution.workers.search import accelerators
from foundry.infra.wire.frames import CallContext, Head, Kind
from foundry.infra.wiring import open_database
from foundry.serving.endpoints.domain import EndpointSnapshot
from foundry.serving.engine.deployment import DEPLOYMENT
from foundry.serving.engine.upstream import HandleUpstream
from foundry.supervisor.reconciler import EngineObservation, EngineStatus, Supervisor
from serve_apps import engine
from serve_apps.outcomes import outcome_chores

NAME = "supervisor"
NAMESPACE = "foundry"

_STATUS: dict[ApplicationStatus, EngineStatus] = {
    ApplicationStatus.NOT_STARTED: "starting",
    ApplicationStatus.DEPLOYING: "starting",
    ApplicationStatus.UNHEALTHY: "starting",
    ApplicationStatus.RUNNING: "running",
    ApplicationStatus.DEPLOY_FAILED: "failed",
    ApplicationStatus.DELETING: "absent",
}
log = logging.getLogger(__name__)

_MESSAGE_CHARS = 2000
_VERIFY_TIMEOUT_S = 120.0


class RayJobs:
    """Job submission over the dashboard; the client is made at first use."""

    def __init__(self, settings: Settings) -> None:
        self._url = f"http://{settings.ray.dashboard_host}:{settings.ray.dashboard_port}"
        self._client: JobSubmissionClient | None = None

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        entrypoint = f"{sys.executable} -m foundry.execution.workers.run --job {job_id}"

        def send() -> None:
            try:
                self._connected().submit_job(entrypoint=entrypoint, submission_id=submission_id)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise

        await asyncio.to_thread(send)

    async def stop(self, submission_id: str) -> None:
        await asyncio.to_thread(lambda: self._connected().stop_job(submission_id))

    def _connected(self) -> JobSubmissionClient:
        if self._client is None:
            self._client = JobSubmissionClient(self._url)
        return self._client


class ServeEngines:
    """Engine applications of this cluster's Ray Serve."""

    def __init__(self) -> None:
        self._upstream = HandleUpstream(DEPLOYMENT)

    async def deploy(self, endpoint: EndpointSnapshot) -> None:
        resources = ray.cluster_resources()
        application = engine.build(
            {
                "base_version_id": str(endpoint.model_version_id),
                "app_name": endpoint.app_name,
                "config": endpoint.config,
                "on_cpu": resources.get("GPU", 0) < 1,
                "accelerators": accelerators(resources),
            }
        )
        target = RunTarget(target=application, name=endpoint.app_name, route_prefix=None)
        await asyncio.to_thread(
            serve.run_many,
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )

    async def observe(self, app_name: str) -> EngineObservation:
        applications = (await asyncio.to_thread(serve.status)).applications
        found = applications.get(app_name)
        if found is None:
            return EngineObservation("absent")
        message = found.message or "; ".join(
            deployment.message for deployment in found.deployments.values() if deployment.message
        )
        return EngineObservation(_STATUS[found.status], message[-_MESSAGE_CHARS:])

    async def verify(self, endpoint: EndpointSnapshot) -> None:
        """Raises EngineFailed: four greedy tokens could not be generated."""
        context = CallContext(f"verify-{endpoint.id}", endpoint.name, _VERIFY_TIMEOUT_S)
        ended = False
        try:
            async with asyncio.timeout(_VERIFY_TIMEOUT_S):
                async for frame in self._upstream.stream(
                    endpoint.app_name, "completions", _probe(endpoint.name), context
                ):
                    if frame.kind is Kind.HEAD and (fault := Head.of(frame).fault):
                        raise fault.error()
                    ended = ended or frame.kind is Kind.TAIL
        except TimeoutError as error:
            raise EngineFailed("the engine did not answer the test request") from error
        if not ended:
            raise EngineFailed("the engine broke its answer to the test request")

    async def delete(self, app_name: str) -> None:
        await asyncio.to_thread(serve.delete, app_name)


def _probe(model: str) -> bytes:
    return orjson.dumps({"model": model, "prompt": "1 2 3", "max_tokens": 4, "temperature": 0})


class SupervisorActor:
    """Shell around `Supervisor`. Ray restarts it when it dies, with nobody left to call it, so the
    work begins by itself."""

    def __init__(self) -> None:
        logging.basicConfig(level=logging.INFO)
        threading.Thread(target=_supervise, args=(load_settings(),), daemon=True).start()

    def ready(self) -> bool:
        return True


def _supervise(settings: Settings) -> None:
    try:
        database = open_database(settings)
        supervisor = Supervisor(
            database,
            RayJobs(settings),
            ServeEngines(),
            settings.serving.engine_start_timeout_s,
            chores=outcome_chores(settings, database),
        )
        asyncio.run(supervisor.run())
    except BaseException:
        log.exception("the supervisor ended")
    # A process without its loop would look alive for ever; Ray starts a new one.
    os._exit(1)


def ensure_supervisor() -> None:
    """Start the cluster's supervisor unless it lives."""
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, lifetime="detached")(SupervisorActor)
    handle = actor.options(name=NAME, namespace=NAMESPACE, get_if_exists=True).remote()
    ray.get(handle.ready.remote())
