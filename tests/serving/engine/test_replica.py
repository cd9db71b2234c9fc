"""Frames out of an engine's events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import orjson
import pytest

from foundry.errors import EngineFailed, NoHealthyUpstream
from foundry.infra.wire.frames import CallContext, Frame, Head, Kind, Tail, Usage, decode_frames
from foundry.serving.engine.replica import (
    MERGE_BYTES,
    MERGE_S,
    Replica,
    _Progress,
    _split_usage,
)
from tests.fakes.engine import FakeEngine, NoAdapters

STREAM = b'{"stream":true}'
CONTEXT = CallContext(request_id="r1", model='we"ird', deadline_s=5)


async def run(
    engine: FakeEngine, body: bytes = STREAM, context: CallContext = CONTEXT
) -> list[list[Frame]]:
    replica = Replica(engine, NoAdapters(), rank=3)
    messages = [m async for m in replica.stream("chat", body, context)]
    assert messages[0] == b""
    return [list(decode_frames(message)) for message in messages[1:]]


async def test_whole_answer_is_one_message() -> None:
    (frames,) = await run(FakeEngine(), b"{}")
    assert [frame.kind for frame in frames] == [Kind.HEAD, Kind.DATA, Kind.TAIL]
    assert Head.from_frame(frames[0]) == Head("mbase", 3)
    assert orjson.loads(frames[1].payload)["model"] == 'we"ird'
    tail = Tail.from_frame(frames[2])
    assert (tail.usage, tail.finish) == (Usage(5, 3), "stop")
    assert tail.timings.keys() == {"adapter", "first", "total"}


async def test_first_token_leaves_at_once_with_the_role() -> None:
    first, *rest = await run(FakeEngine(gap_s=2 * MERGE_S))
    assert [frame.kind for frame in first] == [Kind.HEAD, Kind.PROGRESS, Kind.DATA, Kind.DATA]
    assert Usage.from_frame(first[1]) == Usage(5, 1)
    assert b'"content":"Hello"' in first[3].payload
    assert b"usage" not in first[3].payload
    assert [len(frames) for frames in rest] == [2, 2]
    assert Usage.from_frame(rest[0][0]) == Usage(5, 2)
    assert rest[-1][-1].kind is Kind.TAIL


async def test_fast_tokens_are_merged() -> None:
    words = tuple("abcdefghij")
    messages = await run(FakeEngine(words=words, gap_s=MERGE_S / 10))
    assert len(messages) <= 4
    data = [f.payload for frames in messages for f in frames if f.kind is Kind.DATA]
    assert len(data) == 1 + len(words)
    assert all(orjson.loads(d.removeprefix(b"data: "))["model"] == 'we"ird' for d in data)


async def test_large_events_are_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever waited to merge would do so for an hour.
    monkeypatch.setattr("foundry.serving.engine.replica.MERGE_S", 3600.0)
    words = ("a", "b" * MERGE_BYTES, "c" * MERGE_BYTES)
    async with asyncio.timeout(30):
        messages = await run(FakeEngine(words=words, gap_s=0.001))
    assert len(messages) == 3


async def test_client_content_that_looks_like_structure_is_left_alone() -> None:
    trap = '"model":"mbase","choices":[],"finish_reason":"x","error"'
    messages = await run(FakeEngine(words=("a", trap)))
    data = [f.payload for frames in messages for f in frames if f.kind is Kind.DATA]
    last = orjson.loads(data[-1].removeprefix(b"data: "))
    assert last["choices"][0]["delta"]["content"] == trap
    assert Tail.from_frame(messages[-1][-1]).finish == "stop"


async def test_refusal_is_a_head() -> None:
    (frames,) = await run(FakeEngine(refusal=NoHealthyUpstream("no", retry_after_s=2.0)))
    (frame,) = frames
    fault = Head.from_frame(frame).fault
    assert fault is not None
    error = fault.to_error()
    assert (type(error), error.message, error.details) == (
        NoHealthyUpstream,
        "no",
        {"retry_after_s": 2.0},
    )


async def test_death_before_the_first_token_is_a_head() -> None:
    (frames,) = await run(FakeEngine(dies_after=0))
    fault = Head.from_frame(frames[0]).fault
    assert fault is not None
    assert fault.code == "engine_failed"


async def test_the_usage_at_the_end_comes_only_when_asked_for() -> None:
    asked = b'{"stream":true,"stream_options":{"include_usage":true}}'
    for body, shown in ((STREAM, 0), (asked, 1)):
        data = [f.payload for m in await run(FakeEngine(), body) for f in m if f.kind is Kind.DATA]
        assert [b'"usage"' in payload for payload in data] == [False] * 4 + [True] * shown
    assert b'"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,' in data[-1]


async def test_tokens_of_all_choices_are_counted() -> None:
    progress = _Progress()
    events = [
        'data: {"choices":[{"index":0,"delta":{}}]}',
        'data: {"choices":[{"index":1,"delta":{}}]}',
        'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":3}]}}]}',
    ]
    counted = [
        progress.count_event(event, Usage(9, n)) for event, n in zip(events, (4, 2, 7), strict=True)
    ]
    assert counted == [Usage(9, 4), Usage(9, 6), Usage(9, 9)]


@pytest.mark.parametrize("details", ["", ',"prompt_tokens_details":{"cached_tokens":1}'])
def test_the_usage_is_taken_out_of_an_event(details: str) -> None:
    head, tail = 'data: {"choices":[{"delta":{"content":"\\",\\"usage\\":{"}}]', ',"x":1}\n\n'
    usage = f',"usage":{{"prompt_tokens":5,"total_tokens":7,"completion_tokens":2{details}}}'
    assert _split_usage(head + usage + tail) == (head + tail, Usage(5, 2))
    assert _split_usage(head + tail) == (head + tail, None)


async def test_death_later_raises_without_a_tail() -> None:
    seen: list[Kind] = []
    with pytest.raises(EngineFailed):
        async for message in Replica(FakeEngine(dies_after=2), NoAdapters()).stream(
            "chat", STREAM, CONTEXT
        ):
            seen += [frame.kind for frame in decode_frames(message)]
    seen = [kind for kind in seen if kind is not Kind.PROGRESS]
    assert seen == [Kind.HEAD, Kind.DATA, Kind.DATA, Kind.DATA]


async def test_deadline() -> None:
    context = CallContext(request_id="r1", model="m", deadline_s=0.05)
    (frames,) = await run(FakeEngine(first_s=30), STREAM, context)
    fault = Head.from_frame(frames[0]).fault
    assert fault is not None
    assert fault.code == "deadline_exceeded"


async def test_closing_stops_the_engine() -> None:
    engine = FakeEngine(gap_s=30)
    async with aclosing(Replica(engine, NoAdapters()).stream("chat", STREAM, CONTEXT)) as messages:
        await anext(messages)
        await anext(messages)
    assert engine.cancelled == ["r1"]


async def test_the_adapter_is_held_while_it_answers() -> None:
    held: list[str] = []

    class Adapters:
        @asynccontextmanager
        async def lease_adapter(self, uid: str, version_id: str) -> AsyncIterator[None]:
            held.append(f"+{uid}/{version_id}")
            yield
            held.append(f"-{uid}")

    context = CallContext("r1", "m", 5, adapter_uid="a1", adapter_version_id="v1")
    async for message in Replica(FakeEngine(), Adapters()).stream("chat", b"{}", context):
        if message:
            assert held == ["+a1/v1", "-a1"] or held == ["+a1/v1"]
    assert held == ["+a1/v1", "-a1"]
