"""The two clients."""

from types import TracebackType
from typing import Generic, Self

import httpx
from pydantic import BaseModel

from foundry.config import Settings, load_settings
from foundry.governance.identity.schemas import WhoAmI
from foundry.sdk._connection import connection
from foundry.sdk._transport import (
    AsyncSender,
    Call,
    Resource,
    S_co,
    SyncSender,
    operation,
    path,
)
from foundry.sdk.audit import Audit
from foundry.sdk.budsim import AsyncBudsim, SyncBudsim
from foundry.sdk.chat import AsyncChat, SyncChat
from foundry.sdk.datasets import Datasets
from foundry.sdk.endpoints import AsyncEndpoints, SyncEndpoints
from foundry.sdk.jobs import AsyncJobs, SyncJobs
from foundry.sdk.keys import Keys
from foundry.sdk.models import Models
from foundry.sdk.outcomes import Outcomes


# The control plane's own two answers belong to no slice, so clients keep their shapes here.
class Health(BaseModel):
    status: str
    version: str


class Capability(BaseModel):
    available: bool
    reason: str | None = None


class Capabilities(BaseModel):
    data: dict[str, Capability]


class _Client(Resource[S_co], Generic[S_co]):
    @property
    def url(self) -> str:
        return self.sender.url

    @operation("identity_whoami")
    def whoami(self) -> Call[WhoAmI]:
        """Whose key this client shows, and what it may do."""
        return Call("GET", path("whoami"), WhoAmI)

    @operation("capabilities")
    def capabilities(self) -> Call[Capabilities]:
        """What the server can do, and why not, where it cannot."""
        return Call("GET", path("capabilities"), Capabilities)

    @operation("health")
    def health(self) -> Call[Health]:
        """Ask whether the server can answer requests.

        Raises Unavailable: the server cannot answer requests; the message says why.
        """
        return Call("GET", path("health"), Health)


class Foundry(_Client[SyncSender]):
    """A client of one Foundry. Close it, or use it in a `with` block.

    Args:
        url: like http://127.0.0.1:8000; unset: FOUNDRY_CLIENT__URL, else the local stack.
        api_key: unset: FOUNDRY_CLIENT__API_KEY, else the local stack's first key.
        timeout_s: of one request; unset: FOUNDRY_CLIENT__TIMEOUT_S.
        transport: replaces the network, for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float | None = None,
        settings: Settings | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        to = connection(settings or load_settings(), url, api_key, timeout_s)
        super().__init__(SyncSender(to, transport))
        self.models = Models(self.sender)
        self.datasets = Datasets(self.sender)
        self.jobs = SyncJobs(self.sender)
        self.endpoints = SyncEndpoints(self.sender)
        self.budsim = SyncBudsim(self.sender)
        self.outcomes = Outcomes(self.sender)
        self.keys = Keys(self.sender)
        self.audit = Audit(self.sender)
        self.chat = SyncChat(self.sender)

    @classmethod
    def from_settings(
        cls, settings: Settings, *, transport: httpx.BaseTransport | None = None
    ) -> Self:
        return cls(settings=settings, transport=transport)

    def close(self) -> None:
        self.sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncFoundry(_Client[AsyncSender]):
    """A `Foundry` for asyncio: every operation is awaited."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float | None = None,
        settings: Settings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        to = connection(settings or load_settings(), url, api_key, timeout_s)
        super().__init__(AsyncSender(to, transport))
        self.models = Models(self.sender)
        self.datasets = Datasets(self.sender)
        self.jobs = AsyncJobs(self.sender)
        self.endpoints = AsyncEndpoints(self.sender)
        self.budsim = AsyncBudsim(self.sender)
        self.outcomes = Outcomes(self.sender)
        self.keys = Keys(self.sender)
        self.audit = Audit(self.sender)
        self.chat = AsyncChat(self.sender)

    @classmethod
    def from_settings(
        cls, settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> Self:
        return cls(settings=settings, transport=transport)

    async def close(self) -> None:
        await self.sender.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
