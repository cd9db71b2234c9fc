"""What Ray Serve deploys. Light to import: vLLM is loaded by the engine's replica alone."""

import logging
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse

from foundry.config import ServingSettings
from foundry.errors import EngineFailed
from foundry.infra.wire.frames import CallContext, Operation
from foundry.serving.engine.options import EngineOptions

if TYPE_CHECKING:
    from foundry.serving.engine.server import FoundryLLMServer

# Name of the engine's deployment inside its application.
DEPLOYMENT = "llm"

log = logging.getLogger(__name__)
# EX_SOFTWARE of sysexits.h: what Ray's log shows as the worker's exit code.
_ENGINE_DEAD = 70

_CLOSED = {
    "message": "ask the gateway, under /v1",
    "type": "invalid_request_error",
    "param": None,
    "code": "not_found",
}


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine application serves; ids only.

    Attributes:
        base_version_id: registry version of the base model.
        app_name: of the Serve application, for messages.
    """

    base_version_id: UUID
    app_name: str
    serving: ServingSettings
    options: EngineOptions = field(default_factory=EngineOptions)


class EngineReplica:
    """Shell around `FoundryLLMServer`."""

    async def __init__(self, spec: EngineSpec) -> None:  # type: ignore[misc]
        self._server = await self._start_server(spec)

    async def _start_server(self, spec: EngineSpec) -> "FoundryLLMServer":
        from foundry.serving.engine.server import FoundryLLMServer

        return await FoundryLLMServer.create(spec)

    async def stream(
        self, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        async for message in self._server.stream(operation, body, context):
            yield message

    async def check_health(self) -> None:
        """End this process if its engine is dead.

        Serve replaces a replica that fails three checks in a row, and one whose process is gone at
        once. A dead engine stays dead: the other two checks would only keep its users waiting.
        """
        try:
            await self._server.check_health()
        except EngineFailed as error:
            log.critical("%s; this replica ends so that another one starts", error.message)
            os._exit(_ENGINE_DEAD)


class Closed:
    """An application's ingress. Ray gives it an HTTP port of its own, so it answers 404."""

    def __init__(self, llm: object) -> None:
        self._llm = llm

    async def __call__(self, request: Request) -> JSONResponse:
        return JSONResponse({"error": _CLOSED}, status_code=404)
