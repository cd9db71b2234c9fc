"""The detached actor `supervisor`."""

import asyncio
import logging
import os
import threading
from functools import partial

from foundry.config import Settings, load_settings
from foundry.infra.embedded.heartbeat import write_heartbeat
from foundry.infra.logs import configure_logging
from foundry.infra.wiring import open_database, open_objects
from foundry.serving.endpoints.checking import ModelShapes
from foundry.supervisor.actors import RayActors, ensure_version
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
from serve_apps.guarding import guarding_chores
from serve_apps.outcomes import outcome_chores

NAME = "supervisor"
NAMESPACE = "foundry"

log = logging.getLogger(__name__)


class SupervisorActor:
    """Shell around `Supervisor`.

    Ray restarts it when it dies, with nobody left to call it, so the work begins by itself.
    """

    def __init__(self, version: str) -> None:
        """Begin to supervise in a thread of its own.

        Args:
            version: of the code and settings that it was started with.
        """
        configure_logging()
        self._version = version
        self._supervisor: Supervisor | None = None
        threading.Thread(target=self._supervise, args=(load_settings(),), daemon=True).start()

    def version(self) -> str:
        """The version that it was started with; answering at all says that the actor is ready."""
        return self._version

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
            # A Serve controller that is frozen holds threads that nothing else needs.
            RayCalls("serve-call"),
        )
        self._supervisor = Supervisor(
            database,
            RayJobs.from_settings(settings),
            engines,
            Limits(settings.serving.engine_start_timeout_s, settings.serving.stop_drain_s),
            chores=[
                *outcome_chores(settings, database),
                *collecting_chores(settings, database, calls),
                *guarding_chores(settings),
            ],
            beat=partial(write_heartbeat, settings.home),
        )
        await self._supervisor.run()


def ensure_supervisor(version: str) -> None:
    """Start the cluster's supervisor unless one of this version lives. Raises Unavailable."""
    ensure_version(RayActors(SupervisorActor, NAME, NAMESPACE), version)
