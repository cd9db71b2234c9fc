"""The control plane: every slice's routes behind one set of stages."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.middleware import Middleware

from foundry import __version__
from foundry.catalog.datasets.naming import DatasetNames
from foundry.catalog.datasets.router import router as datasets
from foundry.catalog.registry.router import router as registry
from foundry.catalog.registry.training_data import TrainingData
from foundry.config import HttpSettings, ImportSettings, RaySettings, ServingSettings
from foundry.control.capabilities import Capability, find_capabilities
from foundry.control.reference.notes import NOTES
from foundry.execution.fleets.router import router as fleets
from foundry.execution.jobs.checking import TrainingCheck
from foundry.execution.jobs.dataset_use import JobsReading
from foundry.execution.jobs.importing import ImportRules
from foundry.execution.jobs.router import router as jobs
from foundry.governance.audit.router import router as audit
from foundry.governance.identity.domain import PERMISSIONS
from foundry.governance.identity.router import router as identity
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database
from foundry.infra.http import allow_anyone, require_permission
from foundry.infra.http.admission import Admission
from foundry.infra.http.ends import NoEnds
from foundry.infra.http.errors import install_error_handlers
from foundry.infra.http.openapi import document_api
from foundry.infra.http.parameters import refuse_unknown_parameters
from foundry.infra.http.permissions import collect_permissions
from foundry.infra.http.readiness import Readiness
from foundry.infra.http.stages import build_stages
from foundry.infra.hub_mirror import HubMirror
from foundry.infra.objects import ObjectStore
from foundry.serving.endpoints.checking import EngineCheck, ModelShapes
from foundry.serving.endpoints.router import router as endpoints
from foundry.serving.endpoints.version_use import EndpointUse
from foundry.serving.engine.hardware import LiveHardware
from foundry.serving.engine.runtime import VllmRules
from foundry.serving.outcomes.closing import read_learnt
from foundry.serving.outcomes.domain import Forecasts
from foundry.serving.outcomes.forecasting import PredictorForecasts
from foundry.serving.outcomes.router import router as outcomes
from foundry.serving.recommendations.router import router as budsim
from foundry.serving.recommendations.running import Searches
from foundry.serving.recommendations.searching import CurrentLearnt, LiveCluster, Meter, Searcher

PUBLIC_PATHS = ("/health", "/openapi.json")
_UPLOAD_PATHS = ("/datasets/",)
_SLICES = (identity, audit, registry, datasets, jobs, fleets, endpoints, budsim, outcomes)


class ControlSettings(Protocol):
    """The sections of the settings that the routes read."""

    @property
    def http(self) -> HttpSettings: ...

    @property
    def serving(self) -> ServingSettings: ...

    @property
    def ray(self) -> RaySettings: ...

    @property
    def imports(self) -> ImportSettings: ...


_own = APIRouter(tags=["control"])


@_own.get("/health", operation_id="health", dependencies=[Depends(allow_anyone)])
async def report_health(request: Request) -> dict[str, str]:
    """200 when requests can be answered; else 503, whose error says what is down."""
    await request.app.state.readiness.check_ready()
    return {"status": "ok", "version": __version__}


@_own.get(
    "/capabilities",
    operation_id="capabilities",
    dependencies=[Depends(require_permission("capabilities:read"))],
)
async def list_capabilities() -> dict[str, dict[str, Capability]]:
    """What this installation can do; a part that is missing says what to install."""
    return {"data": find_capabilities()}


def _install_checks(
    app: FastAPI, settings: ControlSettings, hardware: LiveHardware | None, objects: ObjectStore
) -> None:
    """What is asked before something is queued that could not end well."""
    serving = settings.serving
    app.state.serving = serving
    app.state.engine_check = EngineCheck(VllmRules(serving), hardware, ModelShapes(objects))
    app.state.training_check = TrainingCheck(objects, hardware, grows=settings.ray.grows)
    mirror = HubMirror.from_settings(settings.imports)
    app.state.import_rules = ImportRules(mirror, objects)


def _introduce_slices(app: FastAPI) -> None:
    """What slices ask of others that they do not know."""
    app.state.model_users = (EndpointUse,)
    app.state.dataset_readers = (JobsReading,)
    app.state.dataset_heirs = (TrainingData,)
    app.state.dataset_names = DatasetNames


def create_control(
    *,
    database: Database,
    objects: ObjectStore,
    authenticator: Authenticator,
    settings: ControlSettings,
    searcher: Searcher | None = None,
    live: LiveCluster | None = None,
    meter: Meter | None = None,
    learnt: CurrentLearnt = read_learnt,
    forecasts: Forecasts | None = None,
    hardware: LiveHardware | None = None,
) -> FastAPI:
    """The application, to be mounted at `/api`.

    Args:
        searcher: finds recommended configurations; None: this process does.
        live: the cluster that questions mean which name none.
        meter: counts searches.
        learnt: reads what deployments taught.
        forecasts: predict what runs; None: with the server's defaults.
        hardware: what engines may use; None: unknown, so only rules that hold everywhere count.
    Raises:
        SetupError: a route declares no permission.
    """

    searches = Searches(database, objects, searcher=searcher, live=live, meter=meter, learnt=learnt)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await searches.close()
        authenticator.close()
        await database.close()

    app = FastAPI(
        title="Foundry control plane",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "/api"}],
        root_path_in_servers=False,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_parameters)],
        middleware=_build_stages(authenticator, settings.http),
        lifespan=lifespan,
    )
    app.state.database = database
    app.state.readiness = Readiness(database)
    app.state.admission = Admission()
    app.state.objects = objects
    app.state.authenticator = authenticator
    app.state.searches = searches
    app.state.forecasts = forecasts or PredictorForecasts(database, objects, live=live)
    _install_checks(app, settings, hardware, objects)
    app.state.http = settings.http
    _introduce_slices(app)
    for router in (_own, *_SLICES):
        app.include_router(router)
    install_error_handlers(app)
    collect_permissions(app, PERMISSIONS)
    document_api(app, NOTES)
    return app


def _build_stages(authenticator: Authenticator, http: HttpSettings) -> list[Middleware]:
    return build_stages(
        authenticator,
        http,
        ends=NoEnds(),
        public_paths=PUBLIC_PATHS,
        upload_paths=_UPLOAD_PATHS,
    )
