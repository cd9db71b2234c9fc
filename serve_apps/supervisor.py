"""The detached actor `supervisor`."""

import asyncio
import logging
import os
import threading
from typing import Any

import ray

from foundry.config import Settings, load_settings
from foundry.infra.wiring import open_database
from foundry.supervisor.loop import Supervisor
from foundry.supervisor.ray_jobs import RayJobs
from foundry.supervisor.serve_engines import ServeEngines
from serve_apps import engine
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
        threading.Thread(target=_supervise, args=(load_settings(),), daemon=True).start()

    def ready(self) -> bool:
        return True


def _supervise(settings: Settings) -> None:
    try:
        database = open_database(settings)
        supervisor = Supervisor(
            database,
            RayJobs.from_settings(settings),
            ServeEngines(engine.build),
            settings.serving.engine_start_timeout_s,
            chores=[
                *outcome_chores(settings, database),
                *collecting_chores(settings, database),
            ],
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
