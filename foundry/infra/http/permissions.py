"""Permissions: every route declares the one that it needs, else its application does not start."""

from collections.abc import AsyncIterator, Callable, Container, Iterator

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute

from foundry.errors import PermissionDenied, SetupError
from foundry.infra.http.admission import Admission, Admittee, Principal
from foundry.infra.http.scopes import Stage, enter_stage


def require_permission(permission: str) -> Callable[[Request], AsyncIterator[None]]:
    """Build a dependency that refuses callers without `permission` (`resource:action`).

    In an application with an `admission` it then takes the request through its steps, and gives
    back what they took when the route is done.
    """

    # Async, although little is awaited: FastAPI sends a plain function to a thread.
    async def check(request: Request) -> AsyncIterator[None]:
        principal: Principal = request.state.principal
        enter_stage(request.scope, Stage.PERMISSION)
        if not principal.allows(permission):
            raise PermissionDenied(
                f"this key lacks the permission {permission}: its role or its scopes leave it out; "
                "ask an administrator for another key",
                permission=permission,
            )
        admission: Admission | None = getattr(request.app.state, "admission", None)
        if admission is None:
            enter_stage(request.scope, Stage.ROUTE)
            yield
            return
        enter_stage(request.scope, Stage.ADMISSION)
        admittee = Admittee(request.state.request_id, principal, permission)
        async with await admission.admit(admittee):
            enter_stage(request.scope, Stage.ROUTE)
            yield

    check.permission = permission  # type: ignore[attr-defined]
    return check


PUBLIC = "public"


async def allow_anyone() -> None:
    """Declare a route that needs no permission (probes)."""


allow_anyone.permission = PUBLIC  # type: ignore[attr-defined]


def _permissions_of(route: APIRoute) -> Iterator[str]:
    for dependency in route.dependant.dependencies:
        if permission := getattr(dependency.call, "permission", None):
            yield permission


def collect_permissions(app: FastAPI, known: Container[str]) -> dict[str, str]:
    """As `list_permissions`, before an application starts.

    Args:
        known: the permissions that roles and keys can have.

    Raises:
        SetupError: a route declares none, or one that nobody can have.
    """
    declared = list_permissions(app)
    for where, permission in declared.items():
        if permission != PUBLIC and permission not in known:
            raise SetupError(f"route {where} declares the unknown permission {permission}")
    return declared


def list_permissions(app: FastAPI) -> dict[str, str]:
    """Map `METHOD path` of every route to the permission that it declares.

    Raises:
        SetupError: a route declares none, so the application must not start.
    """
    declared: dict[str, str] = {}
    for route in app.routes:
        if not isinstance(route, APIRoute):
            continue
        permission = next(_permissions_of(route), None)
        if permission is None:
            raise SetupError(f"route {route.path} declares no permission")
        for method in sorted(route.methods):
            declared[f"{method} {route.path}"] = permission
    return declared
