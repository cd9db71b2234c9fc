"""Engines as applications of Ray Serve."""

import asyncio
from collections.abc import Callable

import orjson
import ray
from ray import serve
from ray.serve import Application, RunTarget
from ray.serve.schema import ApplicationStatus

from foundry.errors import EngineFailed
from foundry.execution.workers.search import accelerators
from foundry.infra.wire.frames import CallContext, Head, Kind
from foundry.serving.endpoints.domain import EndpointSnapshot
from foundry.serving.engine.deployment import DEPLOYMENT
from foundry.serving.engine.upstream import HandleUpstream
from foundry.supervisor.ports import EngineObservation, EngineStatus

BuildEngine = Callable[[dict[str, object]], Application]

_STATUS: dict[ApplicationStatus, EngineStatus] = {
    ApplicationStatus.NOT_STARTED: "starting",
    ApplicationStatus.DEPLOYING: "starting",
    ApplicationStatus.UNHEALTHY: "starting",
    ApplicationStatus.RUNNING: "running",
    ApplicationStatus.DEPLOY_FAILED: "failed",
    ApplicationStatus.DELETING: "absent",
}

_MESSAGE_CHARS = 2000
_VERIFY_TIMEOUT_S = 120.0


class ServeEngines:
    """Engine applications of this cluster's Ray Serve."""

    def __init__(self, build: BuildEngine) -> None:
        self._build = build
        self._upstream = HandleUpstream(DEPLOYMENT)

    async def deploy(self, endpoint: EndpointSnapshot) -> None:
        resources = ray.cluster_resources()
        application = self._build(
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
