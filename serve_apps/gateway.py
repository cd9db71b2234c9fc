"""The data plane's Serve application, mounted at `/v1`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from foundry.config import Settings, load_settings
from foundry.gateway.app import create_gateway
from foundry.gateway.measurement import Measurement
from foundry.governance.identity.service import Authenticator
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.wiring import open_database
from foundry.monitoring.metrics import RayMeter
from foundry.serving.endpoints.service import Routing
from foundry.serving.engine.deployment import DEPLOYMENT
from foundry.serving.engine.upstream import HandleUpstream
from foundry.serving.engine.version import engine_version
from foundry.serving.outcomes.service import GatewayWindows

# Work beyond the application's own limit is refused by it with OpenAI's body; Serve's own refusal,
# text of HAProxy, must never come first.
_HEADROOM = 64


def create_app(settings: Settings) -> FastAPI:
    database = open_database(settings, DatabaseRole.GATEWAY)
    authenticator = Authenticator.from_settings(settings, database)
    measurement = Measurement(
        RayMeter(),
        GatewayWindows(database),
        engine_version=engine_version(),
        window_s=settings.outcomes.window_s,
        flush_s=settings.outcomes.flush_s,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with measurement.flush_periodically():
            yield
        authenticator.close()
        await database.close()

    return create_gateway(
        database=database,
        authenticator=authenticator,
        routing=Routing(database, max_model_len=settings.serving.max_model_len),
        upstream=HandleUpstream(DEPLOYMENT),
        meter=measurement,
        settings=settings.http,
        lifespan=lifespan,
    )


@serve.ingress(lambda: create_app(load_settings()))
class Gateway:
    """Built inside the replica: pools and handles do not travel."""


def build(args: Mapping[str, Any]) -> Application:
    """Build the gateway's Serve application.

    Args:
        args: `replicas` (1); `version`: of code and settings, the same one again restarts nothing.
    """
    settings = load_settings()
    deployment = serve.deployment(
        name="gateway",
        num_replicas=int(args.get("replicas", 1)),
        max_ongoing_requests=settings.http.max_in_flight + _HEADROOM,
        graceful_shutdown_timeout_s=30.0,
        health_check_period_s=3.0,
        health_check_timeout_s=5.0,
        ray_actor_options={"num_cpus": 0.1},
    )
    made = deployment(Gateway)
    # Serve draws a random one otherwise, and every start would replace every replica; there is no
    # public way to say it.
    made._version = args.get("version")
    return made.bind()
