"""Pure ASGI stages that both HTTP applications put around their routes.

`BaseHTTPMiddleware` would run the application in another task and so break the cancellation of
streams; these classes only wrap `receive` and `send`.
"""

import logging
import math
import re
import time
from collections.abc import Collection, Iterable
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundry.errors import (
    BodyTooLarge,
    FoundryError,
    InvalidRequest,
    NotFound,
    Overloaded,
    Unauthenticated,
)
from foundry.infra.http import Principal, error_body, error_response
from foundry.infra.ids import uuid7

MAX_HEADERS = 64
MAX_HEADER_BYTES = 16 * 1024

Header = tuple[bytes, bytes]

_REQUEST_ID = b"x-request-id"
_INBOUND_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")

_log = logging.getLogger(__name__)


class Authenticator(Protocol):
    """Turns the Authorization header into a principal.

    Raises Unauthenticated for every unusable credential, DatabaseUnavailable when none can be
    checked.
    """

    async def authenticate(self, authorization: str | None) -> Principal: ...


def route_path(scope: Scope) -> str:
    """The path below the mount point, by which routes are declared."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def request_id(scope: Scope) -> str:
    value: str = scope.get("state", {}).get("request_id", "")
    return value


def http_error(error: FoundryError) -> JSONResponse:
    response = error_response(error)
    cooldown = error.details.get("retry_after_s")
    if isinstance(cooldown, float | int):
        response.headers["retry-after"] = str(max(1, math.ceil(cooldown)))
    if isinstance(error, Unauthenticated):
        response.headers["www-authenticate"] = "Bearer"
    return response


class RequestId:
    """Gives each request our own UUIDv7 and its arrival on the monotonic clock.

    A well-formed id of the caller is logged next to ours and never passed on: two callers may
    send the same one. The server around the application may run this stage too; then it decides,
    and the id that the server itself adds to answers gives way.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        if "request_id" not in state:
            state["request_id"] = str(uuid7())
            state["received_at"] = time.monotonic()
            _log_inbound(scope, state["request_id"])
        header = (_REQUEST_ID, state["request_id"].encode())
        scope["headers"] = _with(scope["headers"], header)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with(message.get("headers", ()), header)
            await send(message)

        await self._app(scope, receive, send_with_id)


def _log_inbound(scope: Scope, own: str) -> None:
    for name, value in scope["headers"]:
        if name == _REQUEST_ID and _INBOUND_ID.fullmatch(value):
            _log.info("request %s is the caller's %s", own, value.decode())


def _with(headers: Iterable[Header], header: Header) -> list[Header]:
    """`headers` with `header` in place of any of its name."""
    return [*(known for known in headers if known[0].lower() != header[0]), header]


class SizeLimit:
    """Refuses large headers at once and large bodies while they arrive.

    Args:
        body_bytes: limit of an ordinary body.
        upload_bytes: limit below `upload_paths`, where files arrive.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_bytes: int,
        upload_bytes: int = 0,
        upload_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._body_bytes = body_bytes
        self._upload_bytes = upload_bytes
        self._upload_paths = tuple(upload_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        try:
            _check_headers(scope, limit)
        except FoundryError as error:
            await http_error(error)(scope, receive, send)
            return
        await _CountedBody(self._app, limit)(scope, receive, send)

    def _limit(self, scope: Scope) -> int:
        if self._upload_paths and route_path(scope).startswith(self._upload_paths):
            return self._upload_bytes
        return self._body_bytes


class _CountedBody:
    """One request whose body is counted; an error wins over whatever the application answers.

    FastAPI turns an exception of `receive` into a 400 of its own, so the refusal is kept here.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._seen = 0
        self._refusal: BodyTooLarge | None = None
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                self._seen += len(message.get("body", b""))
                if self._seen > self._limit:
                    self._refusal = _too_large(self._limit)
                    raise self._refusal
            return message

        async def guarded(message: Message) -> None:
            if self._refusal is None:
                self._started = True
                await send(message)

        try:
            await self._app(scope, counted, guarded)
        except BodyTooLarge as error:
            if error is not self._refusal:
                raise
        if self._refusal is not None and not self._started:
            await http_error(self._refusal)(scope, receive, send)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body exceeds {limit} bytes", limit_bytes=limit)


def _check_headers(scope: Scope, body_limit: int) -> None:
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise InvalidRequest(f"more than {MAX_HEADERS} header lines")
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise InvalidRequest(f"the headers exceed {MAX_HEADER_BYTES} bytes")
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > body_limit:
            raise _too_large(body_limit)


class LoadShed:
    """Refuses what exceeds `max_in_flight` at once, so that latency stays bounded."""

    def __init__(
        self, app: ASGIApp, *, max_in_flight: int, exempt_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._max_in_flight = max_in_flight
        self._exempt_paths = frozenset(exempt_paths)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in self._exempt_paths:
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._max_in_flight:
            error = Overloaded(
                f"{self._max_in_flight} requests are in flight here; retry after a moment"
            )
            await http_error(error)(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1


class Authenticate:
    """Puts `state.principal` into the scope or answers; the body is not read before."""

    def __init__(
        self, app: ASGIApp, *, authenticator: Authenticator, public_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._public_paths = frozenset(public_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or route_path(scope) in self._public_paths:
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            principal = await self._authenticator.authenticate(_authorization(scope))
        except FoundryError as error:
            await http_error(error)(scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)


def _authorization(scope: Scope) -> str | None:
    """The header's value; two of them are as unusable as none."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return values[0].decode("latin-1") if len(values) == 1 else None


def install_error_handlers(app: FastAPI) -> None:
    """Every error of the application's routes gets OpenAI's body, also framework-made ones."""

    @app.exception_handler(FoundryError)
    async def on_foundry_error(request: Request, error: FoundryError) -> JSONResponse:
        return http_error(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return http_error(_invalid(error))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        return _framework_error(request, error)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        own = request_id(request.scope)
        response = error_response(
            FoundryError(f"internal error; the server's log has it under request {own}")
        )
        response.headers["x-request-id"] = own
        return response


def _invalid(error: RequestValidationError) -> InvalidRequest:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if part != "body")
    return InvalidRequest(
        f"{where}: {problem['msg']}" if where else str(problem["msg"]), param=where or None
    )


def _framework_error(request: Request, error: HTTPException) -> JSONResponse:
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return http_error(NotFound(f"no such route: {where}"))
    if error.status_code < 500:
        body = error_body(InvalidRequest(str(error.detail)))
    else:
        body = error_body(FoundryError(str(error.detail)))
    if error.status_code == 405:
        body["error"] |= {"message": f"not allowed: {where}", "code": "method_not_allowed"}
    return JSONResponse(body, status_code=error.status_code, headers=dict(error.headers or {}))
