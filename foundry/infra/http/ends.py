"""One recorded end for every request, whichever stage ends it."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foundry.infra.http.presence import Client
from foundry.infra.http.scopes import Stage, current_stage, noted_error, request_id, route_path


@dataclass(frozen=True, slots=True)
class RequestEnd:
    """How a request ended, as seen from outside of all stages.

    Attributes:
        path: as routes are declared.
        principal: None when it was not authenticated.
        stage: where it was.
        status: of the answer; None when none began.
        error: what it was answered with, or what broke out of it; None without one.
        client_left: before the answer was complete.
        duration_s: arrival to the end.
    """

    request_id: str
    path: str
    principal: Any
    stage: Stage
    status: int | None
    error: BaseException | None
    client_left: bool
    duration_s: float


class Ends(Protocol):
    """Keeps the ends of an application's requests."""

    def record_end(self, end: RequestEnd) -> None: ...


class NoEnds:
    """For the control plane: its audit tells what was done, and ends are not kept."""

    def record_end(self, end: RequestEnd) -> None:
        return


class RecordEnd:
    """Records the end of each request exactly once.

    Args:
        exempt_paths: probes, which are no requests of anybody.
    """

    def __init__(self, app: ASGIApp, *, ends: Ends, exempt_paths: Collection[str] = ()) -> None:
        self._app = app
        self._ends = ends
        self._exempt_paths = frozenset(exempt_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in self._exempt_paths:
            await self._app(scope, receive, send)
            return
        status: int | None = None
        broke: BaseException | None = None

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        except BaseException as error:
            broke = error
            raise
        finally:
            self._ends.record_end(_end_of(scope, status, broke))


def _end_of(scope: Scope, status: int | None, broke: BaseException | None) -> RequestEnd:
    state = scope["state"]
    client: Client | None = state.get("client")
    return RequestEnd(
        request_id=request_id(scope),
        path=route_path(scope),
        principal=state.get("principal"),
        stage=current_stage(scope),
        status=status,
        error=broke or noted_error(scope),
        client_left=client is not None and client.left,
        duration_s=time.monotonic() - state["received_at"],
    )
