"""The data plane's application: ordered stages around OpenAI's routes."""

from functools import cache

from fastapi import FastAPI
from starlette.types import Lifespan

from foundry.config import HttpSettings
from foundry.gateway import openai, probes
from foundry.gateway.documentation import describe_inference
from foundry.gateway.ends import InferenceEnds
from foundry.gateway.plane import Plane
from foundry.gateway.ports import Meter, Routing, Upstream
from foundry.governance.identity.domain import PERMISSIONS
from foundry.infra.http.admission import Admission
from foundry.infra.http.errors import install_error_handlers
from foundry.infra.http.openapi import Document
from foundry.infra.http.permissions import collect_permissions
from foundry.infra.http.readiness import Pingable, Readiness
from foundry.infra.http.stages import Authenticator, build_stages

_DOCUMENT_PATH = "/openapi.json"
_ROUTERS = (openai.router, probes.router)


@cache
def document_gateway() -> Document:
    """The OpenAPI document of `/v1`."""
    return describe_inference(_ROUTERS)


def create_gateway(
    *,
    database: Pingable,
    authenticator: Authenticator,
    routing: Routing,
    upstream: Upstream,
    meter: Meter,
    settings: HttpSettings,
    admission: Admission | None = None,
    lifespan: Lifespan[FastAPI] | None = None,
) -> FastAPI:
    """Build the application; routes are relative to its mount point, `/v1`.

    Args:
        admission: the steps between policy and dispatch; None: all requests pass them.
        lifespan: closes at the end what the caller opened.

    Raises:
        SetupError: a route declares no permission.
    """
    app = FastAPI(
        title="Foundry data plane",
        openapi_url=_DOCUMENT_PATH,
        docs_url=None,
        redoc_url=None,
        root_path_in_servers=False,
        redirect_slashes=False,
        lifespan=lifespan,
        middleware=build_stages(
            authenticator,
            settings,
            ends=InferenceEnds(meter),
            public_paths=(*probes.PATHS, _DOCUMENT_PATH),
        ),
    )
    app.state.readiness = Readiness(database)
    app.state.plane = Plane(
        routing, upstream, meter, settings.request_timeout_s, admission or Admission()
    )
    install_error_handlers(app)
    for router in _ROUTERS:
        app.include_router(router)
    collect_permissions(app, PERMISSIONS)
    app.openapi = document_gateway  # type: ignore[method-assign]
    return app
