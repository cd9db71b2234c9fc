"""One replica's answer to a call: frames out of an engine's events. No Ray, no vLLM."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Protocol

import orjson

from foundry.errors import DeadlineExceeded, EngineFailed, FoundryError
from foundry.infra.wire.frames import (
    CallContext,
    Fault,
    Frame,
    Head,
    Kind,
    Operation,
    Tail,
    Usage,
    encode_frames,
)
from foundry.serving.engine.engine import Body, Engine, EventStream
from foundry.serving.engine.refusals import explain_status

MERGE_S = 0.02
MERGE_BYTES = 4096

_DATA = "data: "
_DONE = "data: [DONE]"
# Inside a JSON string its quotes would be escaped, so these match structure only.
_NO_CHOICES = '"choices":[]'
_USAGE = ',"usage":{'
_USAGE_OBJECT = re.compile(r',"usage":(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_CHOICE = re.compile(r'"choices":\[\{"index":(\d+)')
_FINISH = '"finish_reason":"'


class Adapters(Protocol):
    def lease_adapter(self, uid: str, version_id: str) -> AbstractAsyncContextManager[None]:
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
        async with aclosing(call.stream_messages()) as messages:
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

    async def stream_messages(self) -> AsyncGenerator[bytes, None]:
        runner = asyncio.create_task(self._run_engine(), name=f"call-{self._context.request_id}")
        try:
            async for message in self._out.stream_messages():
                yield message
            await runner
        finally:
            runner.cancel()
            await asyncio.wait({runner})

    async def _run_engine(self) -> None:
        try:
            async with asyncio.timeout(self._context.deadline_s):
                await self._answer_request()
        except FoundryError as error:
            self._tell_fault(error)
        except TimeoutError:
            self._tell_fault(DeadlineExceeded("the deadline passed before the answer was complete"))
        finally:
            self._out.close()

    def _tell_fault(self, error: FoundryError) -> None:
        if self._headed:
            raise error
        head = Head(self._engine.name, self._rank, Fault.from_error(error))
        self._out.put_frame(head.to_frame())

    async def _answer_request(self) -> None:
        async with self._lease_adapter():
            self._mark_time("adapter")
            answer = await self._engine.answer(self._operation, self._body, self._context)
            if isinstance(answer, Body):
                self._put_body(answer)
            else:
                await self._put_events(answer)

    def _lease_adapter(self) -> AbstractAsyncContextManager[None]:
        context = self._context
        if context.adapter_uid is None or context.adapter_version_id is None:
            return nullcontext()
        return self._adapters.lease_adapter(context.adapter_uid, context.adapter_version_id)

    def _put_body(self, answer: Body) -> None:
        self._mark_time("first")
        self._put_head()
        self._out.put_frame(Frame(Kind.DATA, answer.json))
        self._put_tail(answer.usage, answer.finish)

    async def _put_events(self, answer: EventStream) -> None:
        usage: Usage | None = None
        finish: str | None = None
        progress = _Progress()
        theirs = _model_field(answer.engine_model)
        ours = _model_field(self._context.model)
        async with aclosing(answer.events) as events:
            async for event in events:
                if event.startswith(_DONE):
                    continue
                _raise_fault(event)
                if not self._headed:
                    self._mark_time("first")
                    self._put_head()
                finish = _finish_of(event) or finish
                bare, counted = _split_usage(event)
                if _NO_CHOICES in event:
                    usage = counted
                    if not answer.include_usage:
                        continue
                else:
                    event = bare
                    if counted is not None:
                        self._out.count_tokens(progress.count_event(event, counted))
                # The first occurrence is the engine's own: only ids come before it.
                self._out.put_frame(Frame(Kind.DATA, event.replace(theirs, ours, 1).encode()))
        if usage is None:
            raise EngineFailed("the engine ended its stream without usage")
        self._put_tail(usage, finish)

    def _put_head(self) -> None:
        self._headed = True
        self._out.put_frame(Head(self._engine.name, self._rank).to_frame())

    def _put_tail(self, usage: Usage, finish: str | None) -> None:
        self._mark_time("total")
        self._out.put_frame(Tail(usage, finish, self._timings).to_frame())

    def _mark_time(self, name: str) -> None:
        self._timings[name] = time.monotonic() - self._started_at


def _model_field(name: str) -> str:
    return f'"model":{orjson.dumps(name).decode()}'


def _raise_fault(event: str) -> None:
    """vLLM reports a failure in the stream as an event; a chunk never starts like this."""
    if not event.startswith('data: {"error"'):
        return
    fault = orjson.loads(event.removeprefix(_DATA))["error"]
    raise explain_status(fault["code"], fault["message"], fault.get("param"))


def _finish_of(event: str) -> str | None:
    _, found, rest = event.partition(_FINISH)
    return rest.partition('"')[0] if found else None


def _split_usage(event: str) -> tuple[str, Usage | None]:
    """The event without its usage, and the tokens so far that it tells; vLLM writes it last."""
    at = event.rfind(_USAGE)
    found = _USAGE_OBJECT.match(event, at) if at >= 0 else None
    if found is None:
        return event, None
    usage = orjson.loads(found[1])
    counted = Usage(usage["prompt_tokens"], usage["completion_tokens"] or 0)
    return event[: found.start()] + event[found.end() :], counted


class _Progress:
    """Tokens so far over all choices of a stream; an event tells those of its own choice."""

    def __init__(self) -> None:
        self._by_choice: dict[str, int] = {}

    def count_event(self, event: str, usage: Usage) -> Usage:
        found = _CHOICE.search(event)
        self._by_choice[found[1] if found else ""] = usage.completion_tokens
        return Usage(usage.prompt_tokens, sum(self._by_choice.values()))


class _Outbox:
    """Frames waiting to leave: the first at once, later ones merged for MERGE_S or MERGE_BYTES."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._bytes = 0
        self._usage: Usage | None = None
        self._closed = False
        self._some = asyncio.Event()
        self._enough = asyncio.Event()

    def put_frame(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._bytes += len(frame.payload)
        self._some.set()
        if self._bytes >= MERGE_BYTES or frame.kind is Kind.TAIL:
            self._enough.set()

    def count_tokens(self, usage: Usage) -> None:
        """Tokens so far; the next message tells them, ahead of what they count."""
        self._usage = usage

    def close(self) -> None:
        self._closed = True
        self._some.set()
        self._enough.set()

    async def stream_messages(self) -> AsyncIterator[bytes]:
        flushed_at = -MERGE_S
        while not (self._closed and not self._frames):
            await self._some.wait()
            await self._wait_to_merge(MERGE_S - (time.monotonic() - flushed_at))
            if not self._frames:
                return
            flushed_at = time.monotonic()
            yield self._drain_frames()

    async def _wait_to_merge(self, seconds: float) -> None:
        if seconds <= 0 or self._enough.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await self._enough.wait()
        except TimeoutError:
            return

    def _drain_frames(self) -> bytes:
        frames, self._frames, self._bytes = self._frames, [], 0
        usage, self._usage = self._usage, None
        if usage is not None and frames[-1].kind is not Kind.TAIL:
            frames.insert(1 if frames[0].kind is Kind.HEAD else 0, usage.to_frame())
        if not self._closed:
            self._some.clear()
            self._enough.clear()
        return encode_frames(frames)
