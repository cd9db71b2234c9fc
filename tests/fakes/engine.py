"""An engine that answers from a script, and an upstream that reaches it through real frames."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from foundry.errors import EngineFailed, FoundryError
from foundry.infra.wire.frames import CallContext, Frame, Operation, Usage, decode_frames
from foundry.serving.engine.engine import Body, EventStream
from foundry.serving.engine.replica import Replica

CREATED = 1_700_000_000
BASE = "mbase"


@dataclass
class FakeEngine:
    """Says `words`, one event each, `gap_s` apart; every event tells the usage so far.

    Attributes:
        refusal: raised instead of an answer.
        dies_after: events until the engine reports its death in the stream, as vLLM does.
        calls: the contexts it was asked with; `cancelled`: those it was stopped in.
        resident: adapters it holds.
    """

    words: tuple[str, ...] = ("Hello", " world", "!")
    gap_s: float = 0.0
    first_s: float = 0.0
    refusal: FoundryError | None = None
    dies_after: int | None = None
    calls: list[CallContext] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    resident: dict[str, Path] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    add_failure: FoundryError | None = None
    add_s: float = 0.0

    @property
    def name(self) -> str:
        return BASE

    async def answer(
        self, operation: Operation, body: bytes, context: CallContext
    ) -> Body | EventStream:
        self.calls.append(context)
        self.bodies.append(body)
        if self.refusal is not None:
            raise self.refusal
        ask = orjson.loads(body)
        name = context.adapter_uid or BASE
        if ask.get("stream"):
            asked = (ask.get("stream_options") or {}).get("include_usage", False)
            return EventStream(self._events(context.request_id, name), name, asked)
        await asyncio.sleep(self.first_s)
        answer = self._chunk(context.request_id, context.model) | {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "".join(self.words)},
                    "finish_reason": "stop",
                }
            ],
            "usage": _usage(len(self.words)),
        }
        return Body(orjson.dumps(answer), Usage(5, len(self.words)), "stop")

    def _chunk(self, request_id: str, model: str) -> dict[str, object]:
        return {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": model,
        }

    async def _events(self, request_id: str, model: str) -> AsyncGenerator[str, None]:
        """vLLM's events: role and first word from one step, then a word a step."""
        chunk = self._chunk(request_id, model)
        try:
            await asyncio.sleep(self.first_s)
            for number, word in enumerate(self.words):
                if number == self.dies_after:
                    yield _event({"error": {"message": "EngineCore died", "code": 500}})
                    return
                if number == 0:
                    yield _event(
                        chunk | {"choices": [_choice({"role": "assistant"})], "usage": _usage(0)}
                    )
                else:
                    await asyncio.sleep(self.gap_s)
                finish = "stop" if number == len(self.words) - 1 else None
                yield _event(
                    chunk
                    | {"choices": [_choice({"content": word}, finish)], "usage": _usage(number + 1)}
                )
            yield _event(chunk | {"choices": [], "usage": _usage(len(self.words))})
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(request_id)
            raise

    async def add_lora(self, uid: str, path: Path) -> None:
        await asyncio.sleep(self.add_s)
        if self.add_failure is not None:
            raise self.add_failure
        self.resident[uid] = path

    async def remove_lora(self, uid: str) -> None:
        self.removed.append(uid)
        self.resident.pop(uid, None)

    async def check_health(self) -> None:
        return


def _usage(completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": 5,
        "completion_tokens": completion,
        "total_tokens": 5 + completion,
    }


def _choice(delta: dict[str, str], finish: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _event(value: dict[str, object]) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


class NoAdapters:
    @asynccontextmanager
    async def lease_adapter(self, uid: str, version_id: str) -> AsyncIterator[None]:
        yield


@dataclass
class FakeUpstream:
    """Reaches engines by application name, message by message as the handle does.

    Attributes:
        failures: raised by the next calls, one each, before the engine is reached.
        cut_after: messages after which the replica dies without a TAIL.
        bug: raised by every call, an exception that nobody foresaw.
    """

    engine: FakeEngine
    failures: list[FoundryError] = field(default_factory=list)
    cut_after: int | None = None
    bug: Exception | None = None
    app_names: list[str] = field(default_factory=list)

    async def stream(
        self, app_name: str, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncIterator[Frame]:
        self.app_names.append(app_name)
        if self.bug is not None:
            raise self.bug
        if self.failures:
            raise self.failures.pop(0)
        replica = Replica(self.engine, NoAdapters())
        seen = 0
        async with aclosing(replica.stream(operation, body, context)) as messages:
            async for message in messages:
                if seen == self.cut_after:
                    raise EngineFailed("the engine's replica died; a new one is being started")
                seen += 1
                for frame in decode_frames(message):
                    yield frame
