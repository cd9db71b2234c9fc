"""The root of a Foundry: `/` and `/docs` for whoever opens its address, `/api` as it is.

The pages need no key, for they say nothing but the API's shape. They have the stages of every
application except authentication: what is wrong at the root is a 404 for everybody.
"""

import asyncio
from collections.abc import Callable
from functools import cache

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from foundry import __version__
from foundry.config import HttpSettings
from foundry.control.reference.page import CONTENT_SECURITY_POLICY, render_page
from foundry.infra.http import allow_anyone
from foundry.infra.http.ends import NoEnds
from foundry.infra.http.errors import install_error_handlers
from foundry.infra.http.openapi import Document
from foundry.infra.http.permissions import list_permissions
from foundry.infra.http.scopes import route_path
from foundry.infra.http.stages import build_stages

API = "/api"
_DOCS = "/docs"
# Below the control plane's prefix, but for people: its routes have no page among them.
_PAGES_OF_API = (API, f"{API}/", f"{API}{_DOCS}")
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # A newer version must show at once.
    "cache-control": "no-cache",
}
_START = {
    "name": "foundry",
    "version": __version__,
    "docs": _DOCS,
    "openapi": f"{API}/openapi.json",
    "api": API,
    "inference": "/v1",
}


class Site:
    """Everything below the root: the pages here, the rest of `/api` in the control plane.

    Args:
        inference: the document of `/v1`, whose routes are another application's.
    """

    def __init__(
        self,
        control: FastAPI,
        http: HttpSettings,
        inference: Callable[[], Document] | None = None,
    ) -> None:
        self._control = control
        self._pages = _create_pages(control, http, inference)
        # What Ray Serve reads to call requests by their routes in its metrics.
        self.routes = [*self._pages.routes, Mount(API, app=control)]
        self.router = self._pages.router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._control(scope, receive, send)
            return
        path = route_path(scope)
        if path.startswith(f"{API}/") and path not in _PAGES_OF_API:
            below = {**scope, "root_path": scope.get("root_path", "") + API}
            await self._control(below, receive, send)
            return
        await self._pages(scope, receive, send)


def _create_pages(
    control: FastAPI, http: HttpSettings, inference: Callable[[], Document] | None
) -> FastAPI:
    @cache
    def draw_reference() -> str:
        return render_page(control.openapi(), inference=inference() if inference else None)

    router = APIRouter(dependencies=[Depends(allow_anyone)])

    async def show_reference() -> Response:
        # The first one takes most of a second, for which the API would stand still.
        return HTMLResponse(await asyncio.to_thread(draw_reference), headers=_HEADERS)

    async def show_start(request: Request) -> Response:
        """Lead a browser to the reference, and tell programs where everything is."""
        if "text/html" in request.headers.get("accept", ""):
            to = request.scope.get("root_path", "") + _DOCS
            return RedirectResponse(to, headers={"vary": "accept"})
        return JSONResponse(_START, headers={"vary": "accept"})

    for path in ("/", API, f"{API}/"):
        router.add_api_route(path, show_start, methods=["GET", "HEAD"])
    for path in (_DOCS, f"{API}{_DOCS}"):
        router.add_api_route(path, show_reference, methods=["GET", "HEAD"])
    pages = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=build_stages(None, http, ends=NoEnds(), public_paths=()),
    )
    pages.include_router(router)
    install_error_handlers(pages)
    list_permissions(pages)
    return pages
