"""The data plane's application: ordered stages around OpenAI's routes."""

from typing import Final

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import Lifespan

from foundry.config import HttpSettings
from foundry.gateway import openai, probes
from foundry.gateway.plane import Plane
from foundry.gateway.ports import Meter, Routing, Upstream
from foundry.infra.http.errors import install_error_handlers
from foundry.infra.http.permissions import declared_permissions
from foundry.infra.http.stages import (
    Authenticate,
    Authenticator,
    LoadShed,
    RequestId,
    SizeLimit,
)

# Size before load: a refused body costs nothing. Both before auth: it costs a database read.
MIDDLEWARE_ORDER: Final = (RequestId, SizeLimit, LoadShed, Authenticate)


def create_gateway(
    *,
    database: probes.Pingable,
    authenticator: Authenticator,
    routing: Routing,
    upstream: Upstream,
    meter: Meter,
    settings: HttpSettings,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """Build the application; routes are relative to its mount point, `/v1`.

    Args:
        lifespan: closes at the end what the caller opened.

    Raises:
        SetupError: a route declares no permission.
    """
    options: dict[type, dict[str, object]] = {
        RequestId: {},
        SizeLimit: {"body_bytes": settings.max_body_bytes},
        LoadShed: {"max_in_flight": settings.max_in_flight, "exempt_paths": probes.PATHS},
        Authenticate: {"authenticator": authenticator, "public_paths": probes.PATHS},
    }
    app = FastAPI(
        title="Foundry data plane",
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=[Middleware(stage, **options[stage]) for stage in MIDDLEWARE_ORDER],
    )
    app.state.database = database
    app.state.plane = Plane(routing, upstream, meter, settings.request_timeout_s)
    install_error_handlers(app)
    app.include_router(openai.router)
    app.include_router(probes.router)
    declared_permissions(app)
    return app
