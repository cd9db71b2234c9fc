"""One replica's answer to a call: frames out of an engine's events. No Ray, no vLLM."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Protocol

import orjson

from foundry.errors import DeadlineExceeded, EngineFailed, FoundryError, InvalidRequest
from foundry.infra.wire.frames import (
    CallContext,
    Fault,
    Frame,
    Head,
    Kind,
    Operation,
    Tail,
    Usage,
    encode,
)
from foundry.serving.engine.engine import Body, Engine, EventStream

log = logging.getLogger(__name__)

MERGE_S = 0.02
MERGE_BYTES = 4096

_DATA = "data: "
_DONE = "data: [DONE]"
# Inside a JSON string its quotes would be escaped, so these match structure only.
_NO_CHOICES = '"choices":[]'
_FINISH = '"finish_reason":"'


class Adapters(Protocol):
    def lease(self, uid: str, version_id: str) -> AbstractAsyncContextManager[None]:
        """The adapter is loaded and stays so while the context is open."""


class Replica:
    """Answers calls with frames.

    Args:
        rank: of this replica among its deployment's.
    """

    def __init__(self, engine: Engine, adapters: Adapters, *, rank: int = 0) -> None:
        self._engine = engine
        self._adapters = adapters
        self._rank = rank

    async def stream(
        self, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        """Messages of frames. A fault before the first token is a HEAD; after it, an exception."""
        yield b""
        call = _Call(self._engine, self._adapters, operation, body, context, self._rank)
        async with aclosing(call.messages()) as messages:
            async for message in messages:
                yield message


class _Call:
    """Runs the engine in a task of its own and merges what it says into messages."""

    def __init__(
        self,
        engine: Engine,
        adapters: Adapters,
        operation: Operation,
        body: bytes,
        context: CallContext,
        rank: int,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._operation = operation
        self._body = body
        self._context = context
        self._rank = rank
        self._started_at = time.monotonic()
        self._timings: dict[str, float] = {}
        self._out = _Outbox()
        self._headed = False

    async def messages(self) -> AsyncGenerator[bytes, None]:
        runner = asyncio.create_task(self._run(), name=f"call-{self._context.request_id}")
        try:
            async for message in self._out.messages():
                yield message
            await runner
        finally:
            runner.cancel()
            await asyncio.wait({runner})

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._context.deadline_s):
                await self._answer()
        except FoundryError as error:
            self._fail(error)
        except TimeoutError as error:
            self._fail(DeadlineExceeded("the deadline passed before the answer was complete"))
            if self._headed:
                raise EngineFailed("the deadline passed in the middle of the answer") from error
        finally:
            self._out.close()

    def _fail(self, error: FoundryError) -> None:
        if self._headed:
            raise error
        head = Head(self._engine.name, self._rank, Fault.of(error))
        self._out.put(head.frame())

    async def _answer(self) -> None:
        async with self._leased():
            self._mark("adapter")
            answer = await self._engine.answer(self._operation, self._body, self._context)
            if isinstance(answer, Body):
                self._whole(answer)
            else:
                await self._streamed(answer)

    def _leased(self) -> AbstractAsyncContextManager[None]:
        context = self._context
        if context.adapter_uid is None or context.adapter_version_id is None:
            return nullcontext()
        return self._adapters.lease(context.adapter_uid, context.adapter_version_id)

    def _whole(self, answer: Body) -> None:
        self._mark("first")
        self._head()
        self._out.put(Frame(Kind.DATA, answer.json))
        self._tail(answer.usage, answer.finish)

    async def _streamed(self, answer: EventStream) -> None:
        usage: Usage | None = None
        finish: str | None = None
        theirs = _model_field(answer.engine_model)
        ours = _model_field(self._context.model)
        async with aclosing(answer.events) as events:
            async for event in events:
                if event.startswith(_DONE):
                    continue
                _refuse_fault(event)
                if not self._headed:
                    self._mark("first")
                    self._head()
                finish = _finish_of(event) or finish
                if _NO_CHOICES in event:
                    usage = _usage_of(event)
                    if not answer.include_usage:
                        continue
                # The first occurrence is the engine's own: only ids come before it.
                self._out.put(Frame(Kind.DATA, event.replace(theirs, ours, 1).encode()))
        if usage is None:
            raise EngineFailed("the engine ended its stream without usage")
        self._tail(usage, finish)

    def _head(self) -> None:
        self._headed = True
        self._out.put(Head(self._engine.name, self._rank).frame())

    def _tail(self, usage: Usage, finish: str | None) -> None:
        self._mark("total")
        self._out.put(Tail(usage, finish, self._timings).frame())

    def _mark(self, name: str) -> None:
        self._timings[name] = time.monotonic() - self._started_at


def _model_field(name: str) -> str:
    return f'"model":{orjson.dumps(name).decode()}'


def _refuse_fault(event: str) -> None:
    """vLLM reports a failure in the stream as an event; a chunk never starts like this."""
    if not event.startswith('data: {"error"'):
        return
    fault = orjson.loads(event.removeprefix(_DATA))["error"]
    if fault["code"] < 500:
        raise InvalidRequest(fault["message"])
    log.error("the engine failed in the middle of an answer: %s", fault["message"])
    raise EngineFailed("the engine failed while it answered; its log has the cause")


def _finish_of(event: str) -> str | None:
    _, found, rest = event.partition(_FINISH)
    return rest.partition('"')[0] if found else None


def _usage_of(event: str) -> Usage:
    usage = orjson.loads(event.removeprefix(_DATA))["usage"]
    return Usage(usage["prompt_tokens"], usage["completion_tokens"])


class _Outbox:
    """Frames waiting to leave: the first at once, later ones merged for MERGE_S or MERGE_BYTES."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._bytes = 0
        self._closed = False
        self._some = asyncio.Event()
        self._enough = asyncio.Event()

    def put(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._bytes += len(frame.payload)
        self._some.set()
        if self._bytes >= MERGE_BYTES or frame.kind is Kind.TAIL:
            self._enough.set()

    def close(self) -> None:
        self._closed = True
        self._some.set()
        self._enough.set()

    async def messages(self) -> AsyncIterator[bytes]:
        flushed_at = -MERGE_S
        while not (self._closed and not self._frames):
            await self._some.wait()
            await self._merge(MERGE_S - (time.monotonic() - flushed_at))
            if not self._frames:
                return
            flushed_at = time.monotonic()
            yield self._drain()

    async def _merge(self, seconds: float) -> None:
        if seconds <= 0 or self._enough.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await self._enough.wait()
        except TimeoutError:
            return

    def _drain(self) -> bytes:
        frames, self._frames, self._bytes = self._frames, [], 0
        if not self._closed:
            self._some.clear()
            self._enough.clear()
        return encode(frames)
