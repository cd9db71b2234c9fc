"""The detached actor `supervisor`."""

import asyncio
import logging
import os
import threading
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from foundry.config import Settings, load_settings
from foundry.errors import Unavailable
from foundry.infra.wiring import open_database
from foundry.supervisor.loop import Supervisor
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.ray_hardware import RayHardware
from foundry.supervisor.ray_jobs import RayJobs
from foundry.supervisor.serve_engines import ServeEngines
from foundry.supervisor.transfers import RayTransfers
from serve_apps.collecting import collecting_chores
from serve_apps.engine import VllmRuntime
from serve_apps.outcomes import outcome_chores

NAME = "supervisor"
NAMESPACE = "foundry"

# Its process imports Ray, vLLM's settings and the slices: half a minute on two loaded cores.
_START_S, _POLL_S = 120.0, 0.5

log = logging.getLogger(__name__)


class SupervisorActor:
    """Shell around `Supervisor`. Ray restarts it when it dies, with nobody left to call it, so the
    work begins by itself."""

    def __init__(self, version: str) -> None:
        """Args: version: of the code and settings that it was started with."""
        logging.basicConfig(level=logging.INFO)
        self._version = version
        self._supervisor: Supervisor | None = None
        threading.Thread(target=self._supervise, args=(load_settings(),), daemon=True).start()

    def version(self) -> str:
        """Of the code and settings; answering at all says that the actor is ready."""
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
        engines = ServeEngines(VllmRuntime(), RayHardware(calls), RayTransfers(calls), calls)
        self._supervisor = Supervisor(
            database,
            RayJobs.from_settings(settings),
            engines,
            settings.serving.engine_start_timeout_s,
            chores=[
                *outcome_chores(settings, database),
                *collecting_chores(settings, database),
            ],
        )
        await self._supervisor.run()


def ensure_supervisor(version: str) -> None:
    """Start the cluster's supervisor unless one of this version lives; replace another's.

    Raises:
        Unavailable: the one before does not end, or the new one does not start.
    """
    deadline = time.monotonic() + _START_S
    while True:
        handle = _start_or_find(version)
        if _ask_version(handle, deadline - time.monotonic()) == version:
            return
        # Of another release or frozen: its lease passes to the next one after 15 s.
        with suppress(ValueError, RayError):
            ray.kill(handle, no_restart=True)
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"the supervisor did not start within {_START_S:.0f} s: see `foundry logs serve`"
            )
        time.sleep(_POLL_S)


def _start_or_find(version: str) -> Any:
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, lifetime="detached")(SupervisorActor)
    return actor.options(name=NAME, namespace=NAMESPACE, get_if_exists=True).remote(version)


def _ask_version(handle: Any, timeout_s: float) -> str | None:
    """None: it is dead or frozen, or of a release that has no versions."""
    try:
        return str(ray.get(handle.version.remote(), timeout=max(timeout_s, 0.0)))
    except (AttributeError, RayError):
        return None
