"""The admission of a request, the same in both planes.

    parse -> resolve -> policy -> rate limit -> idempotency claim -> reserve -> dispatch

Parse, resolve and policy are the route's own; the three steps after them are seams. What a step
took is given back by one exit stack, last taken first, however the request ends: a refused
reservation frees the claim, and an answer that is still streamed keeps both until its end.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID


class Principal(Protocol):
    """Who is asking; built by the auth stage only."""

    @property
    def tenant_id(self) -> UUID: ...

    @property
    def project_id(self) -> UUID: ...

    def allows(self, permission: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Admittee:
    """What the steps may know of a request.

    Attributes:
        action: the permission under which it was allowed.
        body: its raw bytes; empty where the route reads them itself.
    """

    request_id: str
    principal: Principal
    action: str
    body: bytes = b""


class RateLimiter(Protocol):
    async def check_rate(self, request: Admittee) -> None:
        """Count the request against its principal's limits. Raises when one is exceeded."""


class IdempotencyStore(Protocol):
    def claim_key(self, request: Admittee) -> AbstractAsyncContextManager[None]:
        """Hold the request's idempotency key, if it has one, until the context ends."""


class Quota(Protocol):
    def reserve_tokens(self, request: Admittee) -> AbstractAsyncContextManager[None]:
        """Hold what the request may use until the context ends."""


class NoRateLimit:
    async def check_rate(self, request: Admittee) -> None:
        return


class NoIdempotency:
    @asynccontextmanager
    async def claim_key(self, request: Admittee) -> AsyncIterator[None]:
        yield


class NoQuota:
    @asynccontextmanager
    async def reserve_tokens(self, request: Admittee) -> AsyncIterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Admission:
    """The steps between policy and dispatch. Today's let everything pass."""

    limiter: RateLimiter = field(default_factory=NoRateLimit)
    idempotency: IdempotencyStore = field(default_factory=NoIdempotency)
    quota: Quota = field(default_factory=NoQuota)

    async def admit(self, request: Admittee) -> AsyncExitStack:
        """Take the steps in order; closing the stack gives back what they took.

        Raises:
            FoundryError: a step refuses; the steps before it have been given back.
        """
        async with AsyncExitStack() as stack:
            await self.limiter.check_rate(request)
            await stack.enter_async_context(self.idempotency.claim_key(request))
            await stack.enter_async_context(self.quota.reserve_tokens(request))
            return stack.pop_all()
