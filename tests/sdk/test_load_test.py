"""The load test, against the real gateway over a scripted engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from foundry.errors import (
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    Unauthenticated,
    Unavailable,
)
from foundry.sdk.load_test import Level, LoadTest, Plan, Sample, _judge_level, by_error
from tests.fakes.engine import FakeEngine
from tests.gateway.conftest import GOOD, Stand, make_stand

__all__ = ["make_stand"]

PLAN = Plan(concurrency=(1, 4), requests=8, input_tokens=5, output_tokens=4)


class LiveTransport(httpx.AsyncBaseTransport):
    """ASGI with the body as it arrives: httpx's own transport waits for the end of an answer."""

    def __init__(self, app: object) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        started: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]] = asyncio.Future()
        body, asked, gone = await request.aread(), False, asyncio.Event()

        async def receive() -> dict[str, object]:
            nonlocal asked
            if asked:
                await gone.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start" and not started.cancelled():
                started.set_result((message["status"], message["headers"]))  # type: ignore[arg-type]
            elif message.get("body"):
                chunks.put_nowait(message["body"])  # type: ignore[arg-type]
            if message["type"] == "http.response.body" and not message.get("more_body"):
                chunks.put_nowait(None)

        scope = {
            "type": "http",
            "method": request.method,
            "path": request.url.path.removeprefix("/v1"),
            "raw_path": request.url.raw_path,
            "query_string": b"",
            "headers": [(k.lower(), v) for k, v in request.headers.raw],
            "scheme": "http",
            "server": ("gateway", 80),
            "client": ("test", 1),
            "http_version": "1.1",
        }
        task = asyncio.create_task(self._app(scope, receive, send))  # type: ignore[operator]
        # As with a socket: the application learns that nobody waits any more, and ends.
        started.add_done_callback(lambda end: end.cancelled() and task.cancel())
        status, headers = await started

        class Stream(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                while (chunk := await chunks.get()) is not None:
                    yield chunk

            async def aclose(self) -> None:
                gone.set()
                await asyncio.wait({task})

        return httpx.Response(status, headers=headers, stream=Stream())


def against(
    stand: Stand, plan: Plan = PLAN, model: str = "smollm2", headers: dict[str, str] | None = None
) -> tuple[httpx.AsyncClient, LoadTest]:
    http = httpx.AsyncClient(
        transport=LiveTransport(stand.app),
        base_url="http://gateway/v1/",
        headers=GOOD if headers is None else headers,
    )
    return http, LoadTest(http, model, plan)


async def run(stand: Stand, plan: Plan = PLAN, **options: Any) -> list[Level]:
    http, test = against(stand, plan, **options)
    async with http:
        return await test.run()


async def test_it_measures_what_the_engine_does(make_stand: Callable[..., Stand]) -> None:
    engine = FakeEngine(words=("a",) * 6, first_s=0.06, gap_s=0.03)
    levels = await run(make_stand(engine))
    assert [level.concurrency for level in levels] == [1, 4]
    for level in levels:
        assert len(level.samples) == 8
        assert 0.055 < level.quantile("ttft_s", 0.5) < 0.12
        assert 0.025 < level.quantile("tpot_s", 0.5) < 0.06
        assert {sample.output_tokens for sample in level.samples} == {6}
        assert not level.errors
    # 6 tokens in about 0.21 s for each client.
    assert 12 < levels[0].throughput_tps < 29
    # The scripted engine has room for all: nothing is saturated.
    assert levels[1].throughput_tps > 2.5 * levels[0].throughput_tps
    assert not levels[1].saturated


async def test_the_load_is_constant_and_prompts_differ(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(FakeEngine(first_s=0.01))
    (level,) = await run(stand, replace(PLAN, concurrency=(4,)))
    assert len(level.samples) == 8
    # One to begin with, one to warm each client, eight measured, and what was cut off at the end.
    assert 13 <= len(stand.engine.bodies) <= 17
    assert len(set(stand.engine.bodies)) == len(stand.engine.bodies)
    in_flight = sum(sample.duration_s for sample in level.samples) / level.duration_s
    assert 2.5 < in_flight < 5.5


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"headers": {"authorization": "Bearer wrong"}}, Unauthenticated),
        ({"model": "nobody"}, ModelNotFound),
        ({"model": "stopped"}, Unavailable),
    ],
)
async def test_a_first_request_that_is_refused_says_why(
    make_stand: Callable[..., Stand], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match="the server answered"):
        await run(make_stand(), **options)


async def test_nobody_there() -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9/v1/") as http:
        with pytest.raises(Unavailable, match=r"nothing answers at http://127\.0\.0\.1:9/v1"):
            await LoadTest(http, "m", PLAN).run()


async def test_a_field_that_a_server_does_not_know_is_left_out(
    make_stand: Callable[..., Stand],
) -> None:
    stand = make_stand()

    class Strict(FakeEngine):
        async def answer(self, operation, body, context):  # type: ignore[no-untyped-def]
            if b"ignore_eos" in body:
                raise InvalidRequest("ignore_eos: extra inputs are not permitted")
            return await super().answer(operation, body, context)

    stand.upstream.engine = Strict()
    levels = await run(stand, replace(PLAN, concurrency=(1,)))
    assert len(levels[0].samples) == 8
    stand.upstream.engine = FakeEngine(refusal=ContextLengthExceeded("the prompt is too long"))
    with pytest.raises(InvalidRequest, match="the prompt is too long"):
        await run(stand)


async def test_a_few_failures_are_counted_and_do_not_stop_it(
    make_stand: Callable[..., Stand],
) -> None:
    stand = make_stand(FakeEngine(first_s=0.005))
    http, test = against(stand, replace(PLAN, concurrency=(2,), requests=20))

    async def hurt() -> None:
        await asyncio.sleep(0.05)
        stand.upstream.engine = FakeEngine(dies_after=1)
        await asyncio.sleep(0.02)
        stand.upstream.engine = stand.engine

    async with http:
        levels, _ = await asyncio.gather(test.run(), hurt())
    assert len(levels[0].samples) == 20
    assert 1 <= len(levels[0].errors) <= 4
    assert not levels[0].aborted
    ((message, count),) = by_error(levels).items()
    assert "the answer was interrupted" in message
    assert count == len(levels[0].errors)


async def test_an_engine_that_dies_ends_the_test(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(FakeEngine(first_s=0.01))
    http, test = against(stand)
    seen: list[Level] = []

    def then_die(level: Level) -> None:
        seen.append(level)
        stand.upstream.engine = FakeEngine(refusal=Overloaded("the queue is full"))

    async with http:
        levels = await test.run(then_die)
    assert [level.concurrency for level in levels] == [1]
    assert seen == levels
    assert test.shortfall is not None
    assert "at concurrency 4: " in test.shortfall.message
    assert "the queue is full" in test.shortfall.message


async def test_a_level_that_answers_nothing_is_an_error(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(FakeEngine(words=("a", "b"), first_s=0.1))
    with pytest.raises(EngineFailed, match=r"only \d requests were answered at concurrency 1"):
        await run(stand, replace(PLAN, level_s=0.3))
    with pytest.raises(Unavailable, match=r"no answer within 0.05 s"):
        await run(stand, replace(PLAN, timeout_s=0.05))


def level(concurrency: int, throughput: float) -> Level:
    samples = (Sample(10, 10, 0.1, 1.0),) * 10
    return Level(concurrency, datetime.now(UTC), 100 / throughput, samples)


def test_saturation_is_throughput_that_stops_growing() -> None:
    assert not _judge_level(level(4, 40.0), level(1, 15.0)).saturated
    # Four times the clients for 7 % more tokens.
    assert _judge_level(level(16, 43.0), level(4, 40.0)).saturated
    assert not _judge_level(level(4, 40.0), None).saturated


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": ()},
        {"concurrency": (0, 4)},
        {"concurrency": (5000,)},
        {"concurrency": tuple(range(1, 34))},
        {"requests": 1},
        {"output_tokens": 1},
        {"input_tokens": 0},
    ],
)
def test_a_plan_that_measures_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        replace(PLAN, **wrong)  # type: ignore[arg-type]
