"""The detached actor `supervisor`."""

import asyncio
import logging
import os
import threading
from typing import Any

import ray

from foundry.config import Settings, load_settings
from foundry.infra.wiring import open_database, open_objects
from foundry.serving.endpoints.checking import ModelShapes
from foundry.supervisor.decisions import Limits
from foundry.supervisor.loop import Supervisor
from foundry.supervisor.model_shapes import RegisteredShapes
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.ray_hardware import RayHardware
from foundry.supervisor.ray_jobs import RayJobs
from foundry.supervisor.serve_engines import ServeEngines
from foundry.supervisor.transfers import RayTransfers
from foundry.supervisor.vllm_runtime import VllmRuntime
from serve_apps.collecting import collecting_chores
from serve_apps.outcomes import outcome_chores

NAME = "supervisor"
NAMESPACE = "foundry"

log = logging.getLogger(__name__)


class SupervisorActor:
    """Shell around `Supervisor`. Ray restarts it when it dies, with nobody left to call it, so the
    work begins by itself."""

    def __init__(self) -> None:
        logging.basicConfig(level=logging.INFO)
        self._supervisor: Supervisor | None = None
        threading.Thread(target=self._supervise, args=(load_settings(),), daemon=True).start()

    def ready(self) -> bool:
        return True

    def status(self) -> dict[str, object]:
        """See `Supervisor.status`; empty until it has begun."""
        return self._supervisor.status() if self._supervisor is not None else {}

    def _supervise(self, settings: Settings) -> None:
        try:
            asyncio.run(self._run(settings))
        except BaseException:
            log.exception("the supervisor ended")
        # A process without its loop would look alive for ever; Ray starts a new one.
        os._exit(1)

    async def _run(self, settings: Settings) -> None:
        database, calls = open_database(settings), RayCalls()
        engines = ServeEngines(
            VllmRuntime(settings.serving),
            RayHardware(calls),
            RegisteredShapes(database, ModelShapes(open_objects(settings))),
            RayTransfers(calls),
            calls,
        )
        self._supervisor = Supervisor(
            database,
            RayJobs.from_settings(settings),
            engines,
            Limits(settings.serving.engine_start_timeout_s, settings.serving.stop_drain_s),
            chores=[
                *outcome_chores(settings, database),
                *collecting_chores(settings, database, calls),
            ],
        )
        await self._supervisor.run()


def ensure_supervisor() -> None:
    """Start the cluster's supervisor unless it lives."""
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, lifetime="detached")(SupervisorActor)
    handle = actor.options(name=NAME, namespace=NAMESPACE, get_if_exists=True).remote()
    ray.get(handle.ready.remote())
