"""Routes of datasets."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from foundry.catalog.datasets.content import DatasetContent
from foundry.catalog.datasets.domain import MAX_VERSION, NAME_PATTERN, AddOptions, Split
from foundry.catalog.datasets.formats import SUFFIXES
from foundry.catalog.datasets.removal import DatasetRemoval
from foundry.catalog.datasets.schemas import (
    DatasetAdded,
    DatasetList,
    DatasetRows,
    DatasetVersionList,
    DatasetVersionOut,
)
from foundry.catalog.datasets.service import Datasets, ListedDataset
from foundry.catalog.datasets.tables import DatasetVersion
from foundry.catalog.datasets.upload import receive_body
from foundry.governance.audit.service import AuditTrail
from foundry.infra.cursors import DEFAULT_LIMIT, MAX_LIMIT, Page
from foundry.infra.http import Db, require_permission

router = APIRouter(prefix="/datasets", tags=["datasets"])


def _open_datasets(request: Request, db: Db) -> Datasets:
    return Datasets(db, request.state.principal)


def _open_content(request: Request) -> DatasetContent:
    state = request.app.state
    return DatasetContent(
        state.database, state.objects, request.state.principal, request.state.request_id
    )


def _open_removal(request: Request, db: Db) -> DatasetRemoval:
    principal, state = request.state.principal, request.app.state
    # Other slices say what uses a version; the application brings them.
    return DatasetRemoval(
        db,
        AuditTrail(db, principal, request.state.request_id),
        principal,
        readers=[reader(db, principal) for reader in state.dataset_readers],
        heirs=[heir(db, principal) for heir in state.dataset_heirs],
    )


DatasetsDep = Annotated[Datasets, Depends(_open_datasets)]
ContentDep = Annotated[DatasetContent, Depends(_open_content)]
RemovalDep = Annotated[DatasetRemoval, Depends(_open_removal)]
Name = Annotated[str, Path(pattern=NAME_PATTERN)]
Cursor = Annotated[str | None, Query(max_length=1024)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Force = Annotated[bool, Query(description="also if a model was trained on it")]
Reason = Annotated[str | None, Query(max_length=1024, description="kept in the audit trail")]
_READ = [Depends(require_permission("datasets:read"))]
_WRITE = [Depends(require_permission("datasets:write"))]


@router.get("", response_model=DatasetList, operation_id="datasets_list", dependencies=_READ)
async def list_datasets(
    datasets: DatasetsDep, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[ListedDataset]:
    """List datasets by name."""
    return await datasets.list_datasets(cursor=cursor, limit=limit)


@router.post(
    "/{name}/versions",
    status_code=201,
    response_model=DatasetAdded,
    operation_id="datasets_add",
    dependencies=_WRITE,
    responses={200: {"description": "these bytes are a version already"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def add_version(
    name: Name,
    request: Request,
    response: Response,
    content: ContentDep,
    filename: Annotated[
        str,
        Query(
            max_length=255,
            description=f"its suffix names the format: {', '.join(SUFFIXES)}",
        ),
    ],
    eval_fraction: Annotated[
        float, Query(description="expected share of prompts held out; 0: none")
    ] = 0.1,
    seed: Annotated[int, Query(ge=0, lt=2**63, description="of the split")] = 0,
    max_bad_fraction: Annotated[
        float, Query(description="share of invalid rows that may be left out")
    ] = 0.0,
) -> DatasetAdded:
    """Check an uploaded file and keep its rows as a new version.

    The same bytes with the same options are the same version.
    """
    options = AddOptions(filename, eval_fraction, seed, max_bad_fraction)
    async with receive_body(request.stream(), request.app.state.http.max_upload_bytes) as path:
        version, created = await content.add(name, path, options)
    response.status_code = 201 if created else 200
    return DatasetAdded.of(version, created)


@router.get(
    "/{name}/versions",
    response_model=DatasetVersionList,
    operation_id="datasets_versions",
    dependencies=_READ,
)
async def list_versions(
    name: Name, datasets: DatasetsDep, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Page[DatasetVersion]:
    """List a dataset's versions, newest first."""
    return await datasets.list_versions(name, cursor=cursor, limit=limit)


@router.get(
    "/{name}/versions/{number}",
    response_model=DatasetVersionOut,
    operation_id="datasets_get",
    dependencies=_READ,
)
async def get_version(
    name: Name,
    number: Annotated[
        str,
        Path(
            pattern=r"^(latest|[1-9][0-9]{0,9})$", description="counts from 1; latest: the newest"
        ),
    ],
    datasets: DatasetsDep,
) -> DatasetVersion:
    """Describe a version of a dataset."""
    return await datasets.get(f"{name}@{number}")


@router.delete(
    "/{name}/versions/{number}",
    status_code=204,
    operation_id="datasets_delete_version",
    dependencies=_WRITE,
)
async def delete_version(
    name: Name,
    number: Annotated[int, Path(ge=1, le=MAX_VERSION, description="counts from 1")],
    removal: RemovalDep,
    force: Force = False,
    reason: Reason = None,
) -> Response:
    """Delete a version for good; a tombstone stays for the lineage of models."""
    await removal.delete_version(name, number, force=force, reason=reason)
    return Response(status_code=204)


@router.delete("/{name}", status_code=204, operation_id="datasets_delete", dependencies=_WRITE)
async def delete_dataset(
    name: Name, removal: RemovalDep, force: Force = False, reason: Reason = None
) -> Response:
    """Delete every version of a dataset for good; tombstones stay for the lineage of models."""
    await removal.delete_all(name, force=force, reason=reason)
    return Response(status_code=204)


@router.get(
    "/{name}/versions/{number}/rows",
    response_model=DatasetRows,
    operation_id="datasets_rows",
    dependencies=_READ,
)
async def rows(
    name: Name,
    number: Annotated[
        str,
        Path(
            pattern=r"^(latest|[1-9][0-9]{0,9})$", description="counts from 1; latest: the newest"
        ),
    ],
    content: ContentDep,
    split: Annotated[Split, Query(description="train: to train on; eval: held out")] = "train",
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> DatasetRows:
    """Show the first rows of a split."""
    return DatasetRows(data=await content.read_head(f"{name}@{number}", split, limit))
