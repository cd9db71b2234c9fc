"""Routes of the registry."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from foundry.catalog.registry.aliases import Aliases
from foundry.catalog.registry.domain import NAME_PATTERN
from foundry.catalog.registry.schemas import (
    AliasOut,
    AliasRollback,
    AliasSet,
    ArtifactList,
    ComparisonOut,
    LineageOut,
    MetricList,
    ModelDetail,
    ModelList,
    StageSet,
    VersionList,
    VersionOut,
)
from foundry.catalog.registry.service import Registry
from foundry.catalog.registry.tables import Alias, ModelVersion, VersionFile, VersionMetric
from foundry.catalog.registry.views import Comparison, Lineage, ModelSummary
from foundry.governance.audit.service import AuditTrail
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT, Page
from foundry.infra.http import Db, require_permission

router = APIRouter(prefix="/models", tags=["models"])


def _open_registry(request: Request, db: Db) -> Registry:
    principal = request.state.principal
    audit = AuditTrail(db, principal, request.state.request_id)
    # Slices above this one say what still uses a version; the application brings them.
    state = request.app.state
    users = [find(db, principal) for find in state.model_users]
    return Registry(db, audit, principal, users, state.dataset_names(db, principal))


def _open_aliases(request: Request, db: Db) -> Aliases:
    principal = request.state.principal
    audit = AuditTrail(db, principal, request.state.request_id)
    return Aliases(db, audit, principal)


def _drop_name(name: str, version: str) -> str:
    """A version of the model `name`, which may be written name@version as everywhere else."""
    return version.removeprefix(f"{name}@")


RegistryDep = Annotated[Registry, Depends(_open_registry)]
AliasesDep = Annotated[Aliases, Depends(_open_aliases)]
Name = Annotated[str, Path(pattern=NAME_PATTERN)]
Selector = Annotated[str, Path(max_length=128, description="a version or an alias")]
Cursor = Annotated[str | None, Query(max_length=1024)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
_READ = [Depends(require_permission("models:read"))]
_WRITE = [Depends(require_permission("registry:write"))]


@router.get("", response_model=ModelList, operation_id="models_list", dependencies=_READ)
async def list_models(
    registry: RegistryDep,
    q: Annotated[str | None, Query(max_length=128, description="name prefix")] = None,
    kind: Annotated[str | None, Query(max_length=32, description="base, adapter or merged")] = None,
    cursor: Cursor = None,
    limit: Limit = DEFAULT_LIMIT,
) -> Page[ModelSummary]:
    """List models by name."""
    return await registry.list_models(prefix=q, kind=kind, cursor=cursor, limit=limit)


@router.get("/{name}", response_model=ModelDetail, operation_id="models_get", dependencies=_READ)
async def get_model(name: Name, registry: RegistryDep) -> ModelSummary:
    """Describe a model, with its aliases."""
    return await registry.describe(name)


@router.delete("/{name}", status_code=204, operation_id="models_delete", dependencies=_WRITE)
async def delete_model(
    name: Name,
    registry: RegistryDep,
    all_versions: Annotated[
        bool, Query(description="delete its versions, too; false: it must not have any")
    ] = False,
    reason: Annotated[
        str | None, Query(max_length=1024, description="kept in the audit trail")
    ] = None,
) -> Response:
    """Remove a model that has no versions, or together with them."""
    await registry.delete_model(name, all_versions=all_versions, reason=reason)
    return Response(status_code=204)


@router.get(
    "/{name}/versions",
    response_model=VersionList,
    operation_id="versions_list",
    dependencies=_READ,
)
async def list_versions(
    name: Name, registry: RegistryDep, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[ModelVersion]:
    """List a model's versions, newest first."""
    return await registry.list_versions(name, cursor=cursor, limit=limit)


@router.get(
    "/{name}/versions/{version}",
    response_model=VersionOut,
    operation_id="versions_get",
    dependencies=_READ,
)
async def get_version(name: Name, version: Selector, registry: RegistryDep) -> ModelVersion:
    """Describe a version of a model."""
    return await registry.select(name, version)


@router.patch(
    "/{name}/versions/{version}",
    response_model=VersionOut,
    operation_id="versions_set_stage",
    dependencies=_WRITE,
)
async def set_stage(
    name: Name, version: Selector, body: StageSet, registry: RegistryDep
) -> ModelVersion:
    """Hide a version from `@latest`, or bring it back."""
    return await registry.deprecate(name, version, body.deprecated)


@router.delete(
    "/{name}/versions/{version}",
    status_code=204,
    operation_id="versions_delete",
    dependencies=_WRITE,
)
async def delete_version(
    name: Name,
    version: Selector,
    registry: RegistryDep,
    reason: Annotated[
        str | None, Query(max_length=1024, description="kept in the audit trail")
    ] = None,
) -> Response:
    """Remove a version that nothing needs any more. Its record stays."""
    await registry.tombstone(name, version, reason)
    return Response(status_code=204)


@router.get(
    "/{name}/versions/{version}/artifacts",
    response_model=ArtifactList,
    operation_id="versions_artifacts",
    dependencies=_READ,
)
async def artifacts(
    name: Name, version: Selector, registry: RegistryDep
) -> dict[str, list[VersionFile]]:
    """List the files of a version."""
    return {"data": await registry.artifacts(name, version)}


@router.get(
    "/{name}/versions/{version}/metrics",
    response_model=MetricList,
    operation_id="versions_metrics",
    dependencies=_READ,
)
async def metrics(
    name: Name, version: Selector, registry: RegistryDep
) -> dict[str, list[VersionMetric]]:
    """List what was measured while a version was made."""
    return {"data": await registry.metrics(name, version)}


@router.get(
    "/{name}/versions/{version}/lineage",
    response_model=LineageOut,
    operation_id="versions_lineage",
    dependencies=_READ,
)
async def lineage(
    name: Name,
    version: Selector,
    registry: RegistryDep,
    direction: Annotated[
        str,
        Query(
            pattern="^(up|down)$", description="up: where it comes from; down: what came from it"
        ),
    ] = "up",
) -> Lineage:
    """Tell where a version comes from, or what came from it."""
    return await registry.lineage(name, version, down=direction == "down")


@router.get(
    "/{name}/compare",
    response_model=ComparisonOut,
    operation_id="models_compare",
    dependencies=_READ,
)
async def compare(
    name: Name,
    registry: RegistryDep,
    versions: Annotated[
        str,
        Query(max_length=1024, description="like 0.1.0 or name@0.1.0, comma-separated, at most 8"),
    ],
) -> dict[str, list[Comparison]]:
    """Put versions of a model side by side, with the last value of each metric."""
    asked = [_drop_name(name, version) for version in versions.split(",")]
    return {"data": await registry.compare(name, asked)}


@router.put(
    "/{name}/aliases/{alias}",
    response_model=AliasOut,
    operation_id="aliases_set",
    dependencies=_WRITE,
)
async def set_alias(name: Name, alias: Selector, body: AliasSet, aliases: AliasesDep) -> Alias:
    """Point an alias at a version, if it still points where the caller saw it."""
    version = _drop_name(name, body.version)
    return await aliases.set(name, alias, version, body.expected_version_id, body.reason)


@router.post(
    "/{name}/aliases/{alias}/rollback",
    response_model=AliasOut,
    operation_id="aliases_rollback",
    dependencies=_WRITE,
)
async def rollback(name: Name, alias: Selector, body: AliasRollback, aliases: AliasesDep) -> Alias:
    """Point an alias where it pointed before its last move."""
    return await aliases.rollback(name, alias, body.expected_version_id, body.reason)


@router.delete(
    "/{name}/aliases/{alias}",
    status_code=204,
    operation_id="aliases_delete",
    dependencies=_WRITE,
)
async def delete_alias(
    name: Name,
    alias: Selector,
    expected_version_id: Annotated[
        UUID, Query(description="id of the version that the alias points at now")
    ],
    aliases: AliasesDep,
) -> Response:
    """Remove an alias, if it still points where the caller saw it."""
    await aliases.delete(name, alias, expected_version_id)
    return Response(status_code=204)
