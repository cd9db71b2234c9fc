"""Pure ASGI stages that both HTTP applications put around their routes.

`BaseHTTPMiddleware` would run the application in another task and so break the cancellation of
streams; these classes only wrap `receive` and `send`.
"""

import asyncio
import logging
import re
import time
from collections.abc import Collection, Iterable
from typing import Final, Protocol

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundry.config import HttpSettings
from foundry.errors import DeadlineExceeded, FoundryError, Overloaded
from foundry.infra.http.admission import Principal
from foundry.infra.http.ends import Ends, RecordEnd
from foundry.infra.http.errors import send_error
from foundry.infra.http.presence import WatchClient
from foundry.infra.http.scopes import Stage, enter_stage, route_path
from foundry.infra.http.sizes import Pace, SizeLimit
from foundry.infra.ids import uuid7

# After a route's own deadline, so that who waited for what can still name it.
DEADLINE_GRACE_S = 0.25

Header = tuple[bytes, bytes]

_REQUEST_ID = b"x-request-id"
_INBOUND_ID = re.compile(rb"[A-Za-z0-9-]{1,64}")

_log = logging.getLogger(__name__)


class Authenticator(Protocol):
    """Knows who sends a request."""

    async def authenticate(self, authorization: str | None) -> Principal:
        """Turn the Authorization header into a principal.

        Raises:
            Unauthenticated: for every credential that cannot be used.
            DatabaseUnavailable: none can be checked.
        """


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
        scope["headers"] = _replace_header(scope["headers"], header)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _replace_header(message.get("headers", ()), header)
            await send(message)

        await self._app(scope, receive, send_with_id)


def _log_inbound(scope: Scope, own: str) -> None:
    for name, value in scope["headers"]:
        if name == _REQUEST_ID and _INBOUND_ID.fullmatch(value):
            _log.info("request %s is the caller's %s", own, value.decode())


def _replace_header(headers: Iterable[Header], header: Header) -> list[Header]:
    """`headers` with `header` in place of any of its name."""
    return [*(known for known in headers if known[0].lower() != header[0]), header]


class Deadline:
    """Ends a request whose answer has not begun in time, wherever it waits.

    It covers authentication, resolution and the route. An answer that has begun keeps its own
    deadline: the relay ends a stream with an error event, which this stage could only cut.

    Args:
        upload_paths: prefixes below which files are sent, at a pace of their own.
    """

    def __init__(
        self, app: ASGIApp, *, timeout_s: float, upload_paths: Collection[str] = ()
    ) -> None:
        self._app = app
        self._timeout_s = timeout_s
        self._upload_paths = tuple(upload_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_upload(scope):
            await self._app(scope, receive, send)
            return

        async def send_begun(message: Message) -> None:
            if not timeout.expired():
                timeout.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._timeout_s + DEADLINE_GRACE_S) as timeout:
                await self._app(scope, receive, send_begun)
        except TimeoutError:
            if not timeout.expired():
                raise
            error = DeadlineExceeded(
                f"the answer did not begin within {self._timeout_s:g} seconds; retry later"
            )
            await send_error(error, scope, receive, send)

    def _is_upload(self, scope: Scope) -> bool:
        return scope["method"] == "POST" and route_path(scope).startswith(self._upload_paths)


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
        enter_stage(scope, Stage.LOAD)
        if self._in_flight >= self._max_in_flight:
            error = Overloaded(
                f"{self._max_in_flight} requests are in flight here; retry after a moment"
            )
            await send_error(error, scope, receive, send)
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
        enter_stage(scope, Stage.AUTHENTICATION)
        try:
            principal = await self._authenticator.authenticate(_authorization_header(scope))
        except FoundryError as error:
            await send_error(error, scope, receive, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        enter_stage(scope, Stage.ROUTE)
        await self._app(scope, receive, send)


def _authorization_header(scope: Scope) -> str | None:
    """The header's value; None: there is none. Two of them make one that cannot be used."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return b", ".join(values).decode("latin-1") if values else None


# Outermost first. The end is recorded outside of everything that can end a request, and a client
# that leaves frees what all stages hold. Size before load: a refused body costs nothing. Both
# before the deadline's timer and before auth, which costs a database read.
MIDDLEWARE_ORDER: Final = (
    RequestId,
    RecordEnd,
    WatchClient,
    SizeLimit,
    LoadShed,
    Deadline,
    Authenticate,
)


def build_stages(
    authenticator: Authenticator | None,
    http: HttpSettings,
    *,
    ends: Ends,
    public_paths: Collection[str],
    upload_paths: Collection[str] = (),
) -> list[Middleware]:
    """The stages of an application, in `MIDDLEWARE_ORDER`.

    Args:
        authenticator: None: an application of which every route is public has no such stage.
        ends: keeps how each request ended.
        public_paths: need no key, are never shed and not recorded.
        upload_paths: prefixes below which files arrive, which may be large and slow.
    """
    options: dict[type, dict[str, object]] = {
        RequestId: {},
        RecordEnd: {"ends": ends, "exempt_paths": public_paths},
        WatchClient: {},
        SizeLimit: {
            "body_bytes": http.max_body_bytes,
            "upload_bytes": http.max_upload_bytes,
            "upload_paths": upload_paths,
            "upload_pace": Pace(http.min_upload_bytes_s),
        },
        LoadShed: {"max_in_flight": http.max_in_flight, "exempt_paths": public_paths},
        Deadline: {"timeout_s": http.request_timeout_s, "upload_paths": upload_paths},
        Authenticate: {"authenticator": authenticator, "public_paths": public_paths},
    }
    if authenticator is None:
        del options[Authenticate]
    return [Middleware(stage, **options[stage]) for stage in MIDDLEWARE_ORDER if stage in options]
