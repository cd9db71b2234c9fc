"""The control plane's Serve application: the site at `/`, with the API at `/api`."""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from foundry.config import Settings, load_settings
from foundry.control.app import create_control
from foundry.control.site import Site
from foundry.execution.workers.live_cluster import RayCluster
from foundry.execution.workers.search import RaySearcher
from foundry.gateway.app import document_gateway
from foundry.governance.identity.service import Authenticator
from foundry.infra.wiring import open_database, open_objects
from foundry.monitoring.metrics import RaySearchMeter
from foundry.serving.engine.version import engine_version
from foundry.serving.outcomes.forecasting import PredictorForecasts
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.ray_hardware import RayHardware


def create_app(settings: Settings) -> Site:
    database, objects, cluster = open_database(settings), open_objects(settings), RayCluster()
    control = create_control(
        database=database,
        objects=objects,
        authenticator=Authenticator.from_settings(settings, database),
        settings=settings,
        searcher=RaySearcher(),
        live=cluster,
        meter=RaySearchMeter(),
        forecasts=PredictorForecasts(
            database, objects, settings.serving, engine_version(), cluster
        ),
        # A transaction is open meanwhile: an answer that takes longer counts as none.
        hardware=RayHardware(RayCalls(timeout_s=2.0)),
    )
    return Site(control, settings.http, document_gateway)


@serve.ingress(lambda: create_app(load_settings()))
class Control:
    """Built inside the replica: pools do not travel."""


def build(args: Mapping[str, Any]) -> Application:
    """Build the control plane's Serve application.

    Args:
        args: `replicas` (1); `version`: of code and settings, the same one again restarts nothing.
    """
    settings = load_settings()
    deployment = serve.deployment(
        name="control",
        num_replicas=int(args.get("replicas", 1)),
        max_ongoing_requests=settings.http.max_in_flight,
        graceful_shutdown_timeout_s=10.0,
        health_check_period_s=3.0,
        health_check_timeout_s=5.0,
        ray_actor_options={"num_cpus": 0.1},
    )
    made = deployment(Control)
    # Serve draws a random one otherwise, and every start would replace every replica; there is no
    # public way to say it.
    made._version = args.get("version")
    return made.bind()
