"""One call to an engine: opened with retries, then relayed or collected.

Nothing is sent before the engine's HEAD, so overload, a long prompt and a dead engine keep their
real status. After the first byte nothing is retried: the stream ends with an error event and
without `[DONE]`, because a bare cut looks like success to clients.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from foundry.errors import (
    DeadlineExceeded,
    EngineFailed,
    FoundryError,
    NoHealthyUpstream,
    Overloaded,
)
from foundry.gateway.ports import Meter, Settlement, Upstream
from foundry.governance.identity.domain import Principal
from foundry.infra.wire.frames import CallContext, Frame, Head, Kind, Operation, Tail
from foundry.serving.endpoints.domain import Target

MAX_ATTEMPTS = 3
BACKOFF_S = (0.025, 0.5)
RETRIED = (NoHealthyUpstream, Overloaded, EngineFailed)


@dataclass(frozen=True, slots=True)
class Request:
    """A resolved request.

    Attributes:
        received_at: monotonic seconds of its arrival.
        timeout_s: from the arrival to the end of the answer.
    """

    request_id: str
    principal: Principal
    target: Target
    operation: Operation
    model: str
    body: bytes
    received_at: float
    timeout_s: float

    def remaining_s(self) -> float:
        return self.received_at + self.timeout_s - time.monotonic()


class Call:
    """The conversation with the engine for one request; settles exactly once, when closed."""

    def __init__(self, request: Request, upstream: Upstream, meter: Meter) -> None:
        self.request = request
        self.attempts = 0
        # Set once a response owns the call and will close it.
        self.streaming = False
        self._upstream = upstream
        self._meter = meter
        self._frames: AsyncIterator[Frame] | None = None
        self._tail: Tail | None = None
        self._outcome: str | None = None
        self._first_at: float | None = None
        self._settled = False

    async def open(self) -> None:
        """Wait for the engine's HEAD.

        Raises:
            FoundryError: the engine's own refusal, or that no engine could be reached.
        """
        try:
            async with self._deadline():
                opened = await self._attempt()
                while not opened:
                    await asyncio.sleep(random.uniform(*BACKOFF_S))
                    opened = await self._attempt()
        except FoundryError as error:
            self._outcome = error.code
            raise
        self._first_at = time.monotonic()

    async def _attempt(self) -> bool:
        self.attempts += 1
        try:
            await self._begin()
        except RETRIED:
            await self._close_frames()
            if self.attempts >= MAX_ATTEMPTS:
                raise
            return False
        return True

    async def _begin(self) -> None:
        request = self.request
        target = request.target
        context = CallContext(
            request_id=request.request_id,
            model=request.model,
            deadline_s=request.remaining_s(),
            adapter_uid=target.adapter_uid,
            adapter_version_id=str(target.model_version_id) if target.adapter_uid else None,
        )
        frames = self._upstream.stream(target.app_name, request.operation, request.body, context)
        self._frames = aiter(frames)
        first = await anext(self._frames, None)
        if first is None or first.kind is not Kind.HEAD:
            raise EngineFailed("the engine ended its answer before it began")
        fault = Head.of(first).fault
        if fault is not None:
            raise fault.error()

    async def data(self) -> AsyncIterator[bytes]:
        """Payloads until the TAIL.

        Raises:
            EngineFailed: the answer was cut.
        """
        if self._frames is None:
            raise EngineFailed("the call was not opened")
        try:
            async for frame in self._frames:
                if frame.kind is Kind.TAIL:
                    self._tail = Tail.of(frame)
                    self._outcome = "ok"
                    return
                yield frame.payload
            raise EngineFailed("the engine ended its answer early")
        except FoundryError:
            self._outcome = "truncated"
            raise

    async def collect(self) -> bytes:
        """The whole body of an answer that is not streamed; retried as long as nothing is out."""
        while True:
            try:
                async with self._deadline():
                    return b"".join([payload async for payload in self.data()])
            except EngineFailed:
                if self.attempts >= MAX_ATTEMPTS:
                    raise
            await self._close_frames()
            await self.open()

    async def close(self, outcome: Literal["cancelled", "truncated"] = "cancelled") -> None:
        """Cancel what still runs and settle."""
        if self._settled:
            return
        self._settled = True
        request = self.request
        try:
            await self._close_frames()
        finally:
            self._meter.settle(
                Settlement(
                    request_id=request.request_id,
                    principal=request.principal,
                    target=request.target,
                    operation=request.operation,
                    tail=self._tail,
                    outcome=self._outcome or outcome,
                    streamed=self.streaming,
                    attempts=self.attempts,
                    ttft_s=self._first_at and self._first_at - request.received_at,
                    duration_s=time.monotonic() - request.received_at,
                )
            )

    async def _close_frames(self) -> None:
        frames, self._frames = self._frames, None
        closing = getattr(frames, "aclose", None)
        if closing is not None:
            await closing()

    def _deadline(self) -> "_Deadline":
        return _Deadline(self.request.remaining_s())


class _Deadline:
    """`asyncio.timeout` that raises our error."""

    def __init__(self, seconds: float) -> None:
        self._timeout = asyncio.timeout(max(seconds, 0))

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            await self._timeout.__aexit__(
                type(error) if error else None, error, error.__traceback__ if error else None
            )
        except TimeoutError as expired:
            raise DeadlineExceeded("the request's deadline passed") from expired
