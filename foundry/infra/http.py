"""What every HTTP surface shares: the status map, the error body, transactions, permissions."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Protocol
from uuid import UUID

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import (
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    EngineFailed,
    FoundryError,
    InvalidConfiguration,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SetupError,
    Unauthenticated,
    Unavailable,
)

STATUS: dict[type[FoundryError], int] = {
    BodyTooLarge: 413,
    InvalidConfiguration: 422,
    InvalidRequest: 400,
    Unauthenticated: 401,
    PermissionDenied: 403,
    NotFound: 404,
    Conflict: 409,
    DeadlineExceeded: 504,
    Unavailable: 503,
    ResourceExhausted: 507,
    EngineFailed: 502,
    SetupError: 503,
    FoundryError: 500,
}

_TYPES: dict[type[FoundryError], str] = {
    InvalidRequest: "invalid_request_error",
    Unauthenticated: "authentication_error",
    PermissionDenied: "permission_error",
    NotFound: "invalid_request_error",
    Conflict: "conflict_error",
    FoundryError: "server_error",
}


def status_of(error: FoundryError) -> int:
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_body(error: FoundryError) -> dict[str, dict[str, object]]:
    """OpenAI's error body, used by `/v1` and `/api` alike."""
    kind = next(_TYPES[cls] for cls in type(error).__mro__ if cls in _TYPES)
    body: dict[str, object] = {
        "message": error.message,
        "type": kind,
        "param": error.details.get("param"),
        "code": error.code,
    }
    if details := {k: v for k, v in error.details.items() if k != "param"}:
        body["details"] = details
    return {"error": body}


def error_response(error: FoundryError) -> JSONResponse:
    headers = {"retry-after": "1"} if isinstance(error, Unavailable) else None
    return JSONResponse(error_body(error), status_code=status_of(error), headers=headers)


class Principal(Protocol):
    """Who is asking; built by the auth stage only."""

    @property
    def tenant_id(self) -> UUID: ...

    @property
    def project_id(self) -> UUID: ...

    def allows(self, permission: str) -> bool: ...


def require(permission: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses callers without `permission` (`resource:action`)."""

    # Async, although nothing is awaited: FastAPI sends a plain function to a thread.
    async def check(request: Request) -> None:
        principal: Principal = request.state.principal
        if not principal.allows(permission):
            raise PermissionDenied(
                f"this key lacks the permission {permission}; "
                "ask an administrator for a key with a larger role",
                permission=permission,
            )

    check.permission = permission  # type: ignore[attr-defined]
    return check


PUBLIC = "public"


async def public() -> None:
    """Declares a route that needs no permission (probes)."""


public.permission = PUBLIC  # type: ignore[attr-defined]


def _permissions(route: APIRoute) -> Iterator[str]:
    for dependency in route.dependant.dependencies:
        if permission := getattr(dependency.call, "permission", None):
            yield permission


def declared_permissions(app: FastAPI) -> dict[str, str]:
    """`METHOD path` → permission of every route.

    Raises:
        SetupError: a route declares none, so the application must not start.
    """
    declared: dict[str, str] = {}
    for route in app.routes:
        if not isinstance(route, APIRoute):
            continue
        permission = next(_permissions(route), None)
        if permission is None:
            raise SetupError(f"route {route.path} declares no permission")
        for method in sorted(route.methods):
            declared[f"{method} {route.path}"] = permission
    return declared


async def transaction(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.database.begin() as db:
        yield db


# With FastAPI's default scope the commit would run after the response, and a failed one answer 200.
Db = Annotated[AsyncSession, Depends(transaction, scope="function")]
