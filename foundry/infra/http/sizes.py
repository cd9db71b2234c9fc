"""Limits on headers and bodies, kept while they arrive.

Ordinary bodies are small and end with their request's deadline. Uploads are exempt from it, because
a large file on a slow line takes long; instead each has as much time as its bytes so far are worth.
"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundry.errors import BodyTooLarge, BodyTooSlow, FoundryError, InvalidRequest
from foundry.infra.http.errors import send_error
from foundry.infra.http.scopes import Stage, enter_stage, route_path

MAX_HEADERS = 64
MAX_HEADER_BYTES = 16 * 1024
# What a JSON parser makes objects of. Parsing blocks the loop, in a thread too, by about 0.3 µs a
# bracket and 0.05 µs a comma above 1.5 ms a MiB (measured with orjson on one core).
MAX_BRACKETS = 65_536
MAX_COMMAS = 250_000


# A client may stall so long in all: a busy laptop, a change of network.
UPLOAD_GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The slowest that a body may arrive; only time spent waiting for the client counts.

    Attributes:
        min_bytes_s: over the whole body.
        grace_s: on top of what its bytes allow.
    """

    min_bytes_s: float
    grace_s: float = UPLOAD_GRACE_S

    def remaining_s(self, seen_bytes: int, waited_s: float) -> float:
        return self.grace_s + seen_bytes / self.min_bytes_s - waited_s


class SizeLimit:
    """Refuses large headers at once, and large bodies and slow uploads while they arrive.

    Args:
        body_bytes: limit of an ordinary body.
        upload_bytes: limit below `upload_paths`, where files arrive.
        upload_pace: how slow files may arrive.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_bytes: int,
        upload_bytes: int = 0,
        upload_paths: Collection[str] = (),
        upload_pace: Pace | None = None,
    ) -> None:
        self._app = app
        self._upload_pace = upload_pace
        self._body_bytes = body_bytes
        self._upload_bytes = upload_bytes
        self._upload_paths = tuple(upload_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        enter_stage(scope, Stage.SIZE)
        limit = self._body_limit(scope)
        try:
            _check_headers(scope, limit)
        except FoundryError as error:
            await send_error(error, scope, receive, send)
            return
        pace = self._upload_pace if self._is_upload(scope) else None
        body = _CountedBody(self._app, limit, pace, bounded=not self._is_upload(scope))
        await body(scope, receive, send)

    def _body_limit(self, scope: Scope) -> int:
        return self._upload_bytes if self._is_upload(scope) else self._body_bytes

    def _is_upload(self, scope: Scope) -> bool:
        return bool(self._upload_paths) and route_path(scope).startswith(self._upload_paths)


class _CountedBody:
    """One request whose body is counted; a refusal wins over whatever the application answers.

    FastAPI turns an exception of `receive` into a 400 of its own, so the refusal is kept here.
    """

    def __init__(self, app: ASGIApp, limit: int, pace: Pace | None, *, bounded: bool) -> None:
        self._app = app
        self._limit = limit
        self._pace = pace
        self._waited_s = 0.0
        self._seen = 0
        self._bounded = bounded
        self._brackets = 0
        self._commas = 0
        self._refusal: FoundryError | None = None
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_counted() -> Message:
            message = await self._receive_in_time(receive)
            if message["type"] == "http.request":
                self._count_part(message.get("body", b""))
                if self._refusal is not None:
                    raise self._refusal
            return message

        async def send_unless_refused(message: Message) -> None:
            if self._refusal is None:
                self._started = True
                await send(message)

        try:
            await self._app(scope, receive_counted, send_unless_refused)
        except FoundryError as error:
            if error is not self._refusal:
                raise
        if self._refusal is not None and not self._started:
            enter_stage(scope, Stage.SIZE)
            await send_error(self._refusal, scope, receive, send)

    async def _receive_in_time(self, receive: Receive) -> Message:
        if self._pace is None:
            return await receive()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._pace.remaining_s(self._seen, self._waited_s)):
                return await receive()
        except TimeoutError:
            self._refusal = _too_slow_error(self._pace, self._seen)
            raise self._refusal from None
        finally:
            self._waited_s += time.monotonic() - started

    def _count_part(self, part: bytes) -> None:
        self._seen += len(part)
        if self._seen > self._limit:
            self._refusal = _too_large_error(self._limit)
        if not self._bounded:
            return
        self._brackets += part.count(b"{") + part.count(b"[")
        self._commas += part.count(b",")
        if self._brackets > MAX_BRACKETS or self._commas > MAX_COMMAS:
            self._refusal = BodyTooLarge(
                f"the body holds more than {MAX_BRACKETS} opening brackets or {MAX_COMMAS} commas"
            )


def _too_large_error(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body exceeds {limit} bytes", limit_bytes=limit)


def _too_slow_error(pace: Pace, seen: int) -> BodyTooSlow:
    return BodyTooSlow(
        f"the upload is too slow: {seen} bytes came, and it may not fall below "
        f"{pace.min_bytes_s:.0f} bytes a second for more than {pace.grace_s:g} seconds in all; "
        "use a faster line, or ask your operator to lower FOUNDRY_HTTP__MIN_UPLOAD_BYTES_S",
        min_bytes_s=pace.min_bytes_s,
    )


def _check_headers(scope: Scope, body_limit: int) -> None:
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise InvalidRequest(f"more than {MAX_HEADERS} header lines")
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
        raise InvalidRequest(f"the headers exceed {MAX_HEADER_BYTES} bytes")
    for name, value in headers:
        if name == b"content-length" and value.isdigit() and int(value) > body_limit:
            raise _too_large_error(body_limit)
