"""One call to an engine: opened with retries, then relayed or collected.

Nothing is sent before the engine's HEAD, so overload, a long prompt and a dead engine keep their
real status. After the first byte nothing is retried: the stream ends with an error event and
without `[DONE]`, because a bare cut looks like success to clients.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

from foundry.errors import (
    DeadlineExceeded,
    EngineFailed,
    FoundryError,
    NoHealthyUpstream,
    Overloaded,
)
from foundry.gateway.ports import End, Meter, Settlement, Upstream
from foundry.gateway.retries import RetryBudget
from foundry.governance.identity.domain import Principal
from foundry.infra.http.errors import status_of
from foundry.infra.http.presence import Client
from foundry.infra.http.scopes import Stage
from foundry.infra.wire.frames import CallContext, Frame, Head, Kind, Operation, Tail, Usage
from foundry.serving.endpoints.domain import Target

MAX_ATTEMPTS = 3
BACKOFF_S = (0.025, 0.5)
# Only what says that no engine has taken the call.
RETRIED = (NoHealthyUpstream, Overloaded)
# A call that waited longer for a replica has used up the patience that a client has.
RETRY_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """A resolved request.

    Attributes:
        received_at: monotonic seconds of its arrival.
        timeout_s: from the arrival to the end of the answer.
        client: who waits for the answer.
    """

    request_id: str
    principal: Principal
    target: Target
    operation: Operation
    model: str
    body: bytes
    received_at: float
    timeout_s: float
    client: Client

    def remaining_s(self) -> float:
        return self.received_at + self.timeout_s - time.monotonic()


class Call:
    """The conversation with the engine for one request; settles exactly once, when closed.

    Args:
        admitted: what admission took, given back after the settlement.
    """

    def __init__(
        self,
        request: Request,
        upstream: Upstream,
        meter: Meter,
        budget: RetryBudget,
        admitted: AsyncExitStack,
    ) -> None:
        self.request = request
        self.attempts = 0
        # Set once a response owns the call and will close it.
        self.streaming = False
        self._upstream = upstream
        self._meter = meter
        self._budget = budget
        self._admitted = admitted
        self._frames: AsyncIterator[Frame] | None = None
        self._usage: Usage | None = None
        self._end: End | None = None
        self._error: FoundryError | None = None
        self._first_at: float | None = None
        self._settled = False

    async def open(self) -> None:
        """Wait for the engine's HEAD.

        Raises:
            FoundryError: the engine's own refusal, or that no engine could be reached.
        """
        self._budget.count_request()
        with self._record_failures():
            async with self.within_deadline():
                await self._open_with_retries()
        self._first_at = time.monotonic()

    async def _open_with_retries(self) -> None:
        until = time.monotonic() + RETRY_WITHIN_S
        while True:
            self.attempts += 1
            try:
                return await self._begin_attempt()
            except RETRIED:
                await self._close_frames()
                if not self._may_retry(until):
                    raise
            await asyncio.sleep(random.uniform(*BACKOFF_S))

    def _may_retry(self, until: float) -> bool:
        return (
            self.attempts < MAX_ATTEMPTS and time.monotonic() < until and self._budget.take_retry()
        )

    async def _begin_attempt(self) -> None:
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
        fault = Head.from_frame(first).fault
        if fault is not None:
            raise fault.to_error()

    async def stream_payloads(self) -> AsyncIterator[bytes]:
        """Stream the payloads until the TAIL.

        Raises:
            FoundryError: the answer was cut.
        """
        if self._frames is None:
            raise EngineFailed("the call was not opened")
        with self._record_failures():
            async for frame in self._frames:
                if frame.kind is Kind.TAIL:
                    self._usage = Tail.from_frame(frame).usage
                    self._end = End.FINISHED
                    return
                if frame.kind is Kind.PROGRESS:
                    self._usage = Usage.from_frame(frame)
                else:
                    yield frame.payload
            raise EngineFailed("the engine ended its answer early")

    async def collect_body(self) -> bytes:
        """Read the whole body of an answer that is not streamed."""
        with self._record_failures():
            async with self.within_deadline():
                return b"".join([payload async for payload in self.stream_payloads()])

    def record_failure(self, error: Exception) -> None:
        """Name the end that `error` means; the first one recorded stays."""
        if self._end is None:
            self._end = end_of(error, after_first_byte=self.streaming)
            self._error = error if isinstance(error, FoundryError) else None

    def record_client_left(self) -> None:
        """Name the end of a call whose connection broke while the answer was sent."""
        if self._end is None:
            self._end = End.CLIENT_LEFT

    @contextmanager
    def _record_failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.record_failure(error)
            raise

    async def close(self) -> None:
        """Cancel what still runs and settle."""
        if self._settled:
            return
        self._settled = True
        async with self._admitted:
            try:
                await self._close_frames()
            finally:
                end = self._end or await self._infer_end()
                self._meter.settle(self._settlement(end))

    def _settlement(self, end: End) -> Settlement:
        request = self.request
        return Settlement(
            request_id=request.request_id,
            principal=request.principal,
            target=request.target,
            operation=request.operation,
            end=end,
            stage=Stage.DISPATCH,
            status=self._status(end),
            code=self._error.code if self._error else None,
            usage=self._usage,
            streamed=self.streaming,
            attempts=self.attempts,
            ttft_s=self._first_at and self._first_at - request.received_at,
            duration_s=time.monotonic() - request.received_at,
        )

    def _status(self, end: End) -> int | None:
        if self.streaming or end is End.FINISHED:
            return 200
        if end in (End.CLIENT_LEFT, End.SHUT_DOWN):
            return None
        return status_of(self._error) if self._error else 500

    async def _infer_end(self) -> End:
        """Name the end of a call that neither failed nor finished: it was cancelled."""
        if self.request.remaining_s() <= 0:
            return end_of(DeadlineExceeded(""), after_first_byte=self.streaming)
        return End.CLIENT_LEFT if await self.request.client.has_left() else End.SHUT_DOWN

    async def _close_frames(self) -> None:
        frames, self._frames = self._frames, None
        closing = getattr(frames, "aclose", None)
        if closing is not None:
            await closing()

    def within_deadline(self) -> "_Deadline":
        """A block that ends with the request's time, by DeadlineExceeded."""
        return _Deadline(self.request.remaining_s())


def end_of(error: Exception, *, after_first_byte: bool) -> End:
    """The end that an error of a request means."""
    if isinstance(error, DeadlineExceeded):
        late = End.DEADLINE_AFTER_FIRST_BYTE
        return late if after_first_byte else End.DEADLINE_BEFORE_FIRST_BYTE
    if isinstance(error, EngineFailed):
        return End.ENGINE_DIED
    return End.REFUSED if isinstance(error, FoundryError) else End.INTERNAL


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
