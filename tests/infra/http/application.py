"""The smallest application behind all stages, its fake authenticator, and the ends it records."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
from fastapi import Depends, FastAPI, Request

from foundry.config import HttpSettings
from foundry.errors import Unauthenticated
from foundry.infra.http import allow_anyone
from foundry.infra.http.ends import RequestEnd
from foundry.infra.http.errors import install_error_handlers
from foundry.infra.http.stages import build_stages

_ID = UUID(int=1)


@dataclass(frozen=True)
class Anybody:
    tenant_id: UUID = _ID
    project_id: UUID = _ID

    def allows(self, permission: str) -> bool:
        return True


@dataclass
class Authenticator:
    """Attributes: before: awaited before each verdict."""

    asked: int = 0
    before: Callable[[], Awaitable[object]] | None = None

    async def authenticate(self, authorization: str | None) -> Anybody:
        self.asked += 1
        if self.before is not None:
            await self.before()
        if authorization != "Bearer good":
            raise Unauthenticated("the API key is missing or wrong")
        return Anybody()


@dataclass
class RecordedEnds:
    ends: list[RequestEnd] = field(default_factory=list)

    def record_end(self, end: RequestEnd) -> None:
        self.ends.append(end)


class Staged:
    """Answers `POST /echo` and `POST /files/x` with the body's length, and `GET /probe`."""

    def __init__(self, **http: float) -> None:
        self.authenticator, self.recorded = Authenticator(), RecordedEnds()
        self.app = FastAPI(
            middleware=build_stages(
                self.authenticator,
                HttpSettings.model_validate(http),
                ends=self.recorded,
                public_paths=("/probe",),
                upload_paths=("/files/",),
            )
        )
        self.app.get("/probe", dependencies=[Depends(allow_anyone)])(_probe)
        self.app.post("/echo", dependencies=[Depends(allow_anyone)])(_count)
        self.app.post("/files/x", dependencies=[Depends(allow_anyone)])(_count)
        install_error_handlers(self.app)

    def client(self, key: str | None = "Bearer good") -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://staged",
            headers={"authorization": key} if key else {},
        )


async def _probe() -> dict[str, str]:
    return {"status": "ok"}


async def _count(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


class Connection:
    """One request over a connection of its own: the test is its server and its client."""

    def __init__(self, app: FastAPI, path: str) -> None:
        self.sent: list[dict[str, Any]] = []
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(b"authorization", b"Bearer good")],
        }
        self.request = asyncio.create_task(app(scope, self.inbox.get, self._send))

    def write(self, body: bytes, *, more: bool) -> None:
        self.inbox.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self) -> None:
        self.inbox.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def error(self) -> dict[str, Any]:
        body = b"".join(message.get("body", b"") for message in self.sent)
        error: dict[str, Any] = json.loads(body)["error"]
        return error

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
