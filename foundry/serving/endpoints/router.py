"""Routes of endpoints."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Depends, Path, Query, Request, Response

from foundry.catalog.registry.service import Registry
from foundry.governance.audit.service import AuditTrail
from foundry.infra.answers import Answer
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT, Page
from foundry.infra.http import Db, require_permission
from foundry.infra.http.references import ReferenceQuery
from foundry.serving.endpoints.domain import RevisionDiff
from foundry.serving.endpoints.schemas import (
    EndpointConfigure,
    EndpointCreate,
    EndpointList,
    EndpointOut,
    EndpointRollback,
    EndpointScale,
    RevisionDiffOut,
    RevisionList,
)
from foundry.serving.endpoints.service import Endpoints
from foundry.serving.endpoints.tables import Endpoint, EndpointRevision
from foundry.serving.recommendations.running import Searches
from foundry.serving.recommendations.service import Recommendations

router = APIRouter(prefix="/endpoints", tags=["endpoints"])


def _endpoints(request: Request, db: Db) -> Endpoints:
    principal = request.state.principal
    audit = AuditTrail(db, principal, request.state.request_id)
    registry = Registry(db, audit, principal)
    searches: Searches = request.app.state.searches
    state = request.app.state
    return Endpoints(
        db, audit, principal, registry, searches.learnt, state.engine_check, state.serving
    )


def _recommendations(request: Request, db: Db) -> Recommendations:
    principal = request.state.principal
    audit = AuditTrail(db, principal, request.state.request_id)
    searches: Searches = request.app.state.searches
    return searches.service(db, audit, principal)


def _searches(request: Request) -> Searches:
    searches: Searches = request.app.state.searches
    return searches


RecommendationsDep = Annotated[Recommendations, Depends(_recommendations)]
SearchesDep = Annotated[Searches, Depends(_searches)]
RevisionNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="number of a revision")]
Now = Annotated[bool, Query(description="cut running requests off instead of draining them")]
EndpointsDep = Annotated[Endpoints, Depends(_endpoints)]
_SAME: dict[int | str, dict[str, Any]] = {
    200: {"description": "it was so already: `note` says what"}
}
_READ = [Depends(require_permission("endpoints:read"))]
_WRITE = [Depends(require_permission("endpoints:write"))]


@router.post(
    "",
    status_code=201,
    response_model=EndpointOut,
    operation_id="endpoints_create",
    dependencies=_WRITE,
    responses={200: {"description": "this base has an endpoint already"}},
)
async def create(body: EndpointCreate, response: Response, endpoints: EndpointsDep) -> EndpointOut:
    """Make the endpoint of a model's base, unless it has one; `deploy` also starts it."""
    config = body.config.model_dump(exclude_none=True)
    made = await endpoints.create(body.model, name=body.name, config=config)
    deployed = await endpoints.deploy(made.row.id) if body.deploy else made
    response.status_code = 201 if made.changed else 200
    return deployed.describe(EndpointOut)


@router.get("", response_model=EndpointList, operation_id="endpoints_list", dependencies=_READ)
async def list_endpoints(
    endpoints: EndpointsDep,
    reference: ReferenceQuery = None,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Page[Endpoint]:
    """List endpoints, newest first."""
    return await endpoints.list_endpoints(reference=reference, cursor=cursor, limit=limit)


@router.get(
    "/{endpoint_id}", response_model=EndpointOut, operation_id="endpoints_get", dependencies=_READ
)
async def get_endpoint(endpoint_id: UUID, endpoints: EndpointsDep) -> Endpoint:
    """Describe an endpoint."""
    return await endpoints.get(endpoint_id)


@router.put(
    "/{endpoint_id}/config",
    response_model=EndpointOut,
    operation_id="endpoints_configure",
    dependencies=_WRITE,
)
async def configure(
    endpoint_id: UUID,
    body: EndpointConfigure,
    endpoints: EndpointsDep,
    recommendations: RecommendationsDep,
    searches: SearchesDep,
    afterwards: BackgroundTasks,
) -> Endpoint:
    """Store how the next deploy is to serve it.

    Options, or targets from which options are found.
    """
    endpoint = await endpoints.configure(endpoint_id, body, recommendations)
    if endpoint.recommendation_id is not None:
        # After the commit: before it, no other transaction could see the row.
        afterwards.add_task(searches.begin, endpoint.recommendation_id)
    return endpoint


@router.post(
    "/{endpoint_id}/deploy",
    status_code=202,
    response_model=EndpointOut,
    responses=_SAME,
    operation_id="endpoints_deploy",
    dependencies=_WRITE,
)
async def deploy(
    endpoint_id: UUID,
    endpoints: EndpointsDep,
    response: Response,
    recommendation_id: Annotated[
        UUID | None, Query(description="the one that was reviewed; refuse to apply any other")
    ] = None,
) -> EndpointOut:
    """Ask for an endpoint to run, as it was configured last."""
    return _describe_changed(response, await endpoints.deploy(endpoint_id, recommendation_id))


@router.post(
    "/{endpoint_id}/scale",
    status_code=202,
    response_model=EndpointOut,
    responses=_SAME,
    operation_id="endpoints_scale",
    dependencies=_WRITE,
)
async def scale(
    endpoint_id: UUID, body: EndpointScale, endpoints: EndpointsDep, response: Response
) -> EndpointOut:
    """Ask for so many replicas, now and from the next deploy on."""
    return _describe_changed(response, await endpoints.scale(endpoint_id, body.replicas))


@router.post(
    "/{endpoint_id}/rollback",
    status_code=202,
    response_model=EndpointOut,
    responses=_SAME,
    operation_id="endpoints_rollback",
    dependencies=_WRITE,
)
async def rollback(
    endpoint_id: UUID, body: EndpointRollback, endpoints: EndpointsDep, response: Response
) -> EndpointOut:
    """Ask for the configuration of an earlier revision to run again."""
    return _describe_changed(response, await endpoints.rollback(endpoint_id, body.revision))


@router.get(
    "/{endpoint_id}/revisions",
    response_model=RevisionList,
    operation_id="endpoints_revisions",
    dependencies=_READ,
)
async def list_revisions(
    endpoint_id: UUID,
    endpoints: EndpointsDep,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Page[EndpointRevision]:
    """List what an endpoint was configured like, newest first."""
    return await endpoints.list_revisions(endpoint_id, cursor=cursor, limit=limit)


@router.get(
    "/{endpoint_id}/revisions/{before}/diff/{after}",
    response_model=RevisionDiffOut,
    operation_id="endpoints_diff",
    dependencies=_READ,
)
async def diff_revisions(
    endpoint_id: UUID, before: RevisionNumber, after: RevisionNumber, endpoints: EndpointsDep
) -> RevisionDiff:
    """Tell in which options two revisions differ."""
    return await endpoints.diff(endpoint_id, before, after)


@router.post(
    "/{endpoint_id}/stop",
    status_code=202,
    response_model=EndpointOut,
    responses=_SAME,
    operation_id="endpoints_stop",
    dependencies=_WRITE,
)
async def stop(
    endpoint_id: UUID, endpoints: EndpointsDep, response: Response, now: Now = False
) -> EndpointOut:
    """Ask for an endpoint to drain and stop."""
    return _describe_changed(response, await endpoints.stop(endpoint_id, now=now))


@router.delete(
    "/{endpoint_id}",
    status_code=202,
    response_model=EndpointOut,
    responses=_SAME,
    operation_id="endpoints_delete",
    dependencies=_WRITE,
)
async def delete(
    endpoint_id: UUID, endpoints: EndpointsDep, response: Response, now: Now = False
) -> EndpointOut:
    """Ask for an endpoint to stop and be forgotten."""
    return _describe_changed(response, await endpoints.delete(endpoint_id, now=now))


def _describe_changed(response: Response, answer: Answer[Endpoint]) -> EndpointOut:
    """The endpoint; 200 if the request changed nothing of it."""
    if not answer.changed:
        response.status_code = 200
    return answer.describe(EndpointOut)
