"""Routes of budsim."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from foundry.governance.audit.service import AuditTrail
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT, Page
from foundry.infra.http import Db, require_permission
from foundry.infra.http.references import ReferenceQuery
from foundry.serving.recommendations.asking import Desk
from foundry.serving.recommendations.domain import MAX_WAIT_S
from foundry.serving.recommendations.hardware_schemas import (
    CatalogueOut,
    PricesIn,
    PricesOut,
    ProbedOut,
)
from foundry.serving.recommendations.running import Searches
from foundry.serving.recommendations.schemas import (
    ParetoOut,
    PredictIn,
    PredictionList,
    RecommendationCreate,
    RecommendationList,
    RecommendationOut,
    SimulateIn,
    SimulationOut,
    ValidateIn,
    ValidationOut,
)
from foundry.serving.recommendations.service import Recommendations
from foundry.serving.recommendations.tables import PriceList, ProbedHardware, Recommendation

router = APIRouter(prefix="/budsim", tags=["budsim"])


def _searches(request: Request) -> Searches:
    searches: Searches = request.app.state.searches
    return searches


def _desk(request: Request) -> Desk:
    return Desk(request.app.state.searches, request.state.principal, request.state.request_id)


def _recommendations(request: Request, db: Db) -> Recommendations:
    principal = request.state.principal
    audit = AuditTrail(db, principal, request.state.request_id)
    searches: Searches = request.app.state.searches
    return searches.service(db, audit, principal)


SearchesDep = Annotated[Searches, Depends(_searches)]
DeskDep = Annotated[Desk, Depends(_desk)]
RecommendationsDep = Annotated[Recommendations, Depends(_recommendations)]
Wait = Annotated[int, Query(ge=0, le=MAX_WAIT_S, description="seconds to wait for the answer")]
_READ = [Depends(require_permission("budsim:read"))]
_RUN = [Depends(require_permission("budsim:run"))]
_ADMIN = [Depends(require_permission("budsim:admin"))]


@router.post(
    "/recommendations",
    status_code=202,
    response_model=RecommendationOut,
    operation_id="budsim_recommend",
    dependencies=_RUN,
)
async def recommend(body: RecommendationCreate, desk: DeskDep, wait: Wait = 0) -> Recommendation:
    """Search the configuration that meets the targets for the least money.

    Equal questions share an answer.
    """
    return await desk.recommend(body, wait)


@router.get(
    "/recommendations",
    response_model=RecommendationList,
    operation_id="budsim_recommendations",
    dependencies=_READ,
)
async def list_recommendations(
    recommendations: RecommendationsDep,
    reference: ReferenceQuery = None,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Page[Recommendation]:
    """List recommendations, newest first."""
    return await recommendations.list_recommendations(
        reference=reference, cursor=cursor, limit=limit
    )


@router.get(
    "/recommendations/{recommendation_id}",
    response_model=RecommendationOut,
    operation_id="budsim_recommendation",
    dependencies=_READ,
)
async def get_recommendation(
    recommendation_id: UUID, desk: DeskDep, wait: Wait = 0
) -> Recommendation:
    """Describe a recommendation, whose answer may be waited for."""
    return await desk.recommendation(recommendation_id, wait)


@router.get(
    "/recommendations/{recommendation_id}/pareto",
    response_model=ParetoOut,
    operation_id="budsim_pareto",
    dependencies=_READ,
)
async def pareto(recommendation_id: UUID, desk: DeskDep) -> dict[str, object]:
    """List the answers between which only taste decides; the recommended one first."""
    return {"data": await desk.pareto(recommendation_id)}


@router.post(
    "/predict", response_model=PredictionList, operation_id="budsim_predict", dependencies=_RUN
)
async def predict(body: PredictIn, desk: DeskDep) -> Response:
    """Predict what each configuration would do under a workload."""
    return Response(await desk.predict(body), media_type="application/json")


@router.post(
    "/validate", response_model=ValidationOut, operation_id="budsim_validate", dependencies=_RUN
)
async def validate(body: ValidateIn, desk: DeskDep) -> dict[str, object]:
    """Check a configuration by the rules of the search, and predict what it would do."""
    return await desk.validate(body)


@router.post(
    "/simulate", response_model=SimulationOut, operation_id="budsim_simulate", dependencies=_RUN
)
async def simulate(body: SimulateIn, desk: DeskDep) -> dict[str, object]:
    """Replay a trace or a synthetic workload through one configuration."""
    return {"data": await desk.simulate(body)}


@router.get(
    "/catalogue", response_model=CatalogueOut, operation_id="budsim_catalogue", dependencies=_READ
)
async def catalogue(desk: DeskDep) -> dict[str, object]:
    """List every accelerator, with the prices that count here."""
    return await desk.catalogue()


@router.put(
    "/prices", response_model=PricesOut, operation_id="budsim_set_prices", dependencies=_ADMIN
)
async def set_prices(body: PricesIn, recommendations: RecommendationsDep) -> PriceList:
    """Set prices of the tenant; null brings the catalogue's back."""
    return await recommendations.set_prices(body.prices, body.expected_version)


@router.post("/probe", response_model=ProbedOut, operation_id="budsim_probe", dependencies=_ADMIN)
async def probe(recommendations: RecommendationsDep) -> ProbedHardware:
    """Measure a CPU node again; predictions use it in place of the catalogue's numbers."""
    return await recommendations.probe()
