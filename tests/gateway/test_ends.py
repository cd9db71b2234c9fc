"""Every request has exactly one recorded end, with the tokens that were generated until then."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from foundry.errors import ContextLengthExceeded, FoundryError, Overloaded
from foundry.gateway.ports import End
from foundry.gateway.retries import FLOOR, WINDOW_S, RetryBudget
from foundry.infra.wire.frames import Usage
from tests.fakes.engine import FakeEngine
from tests.gateway.conftest import Stand

CHAT: dict[str, Any] = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}
# A frozen engine: it never says anything, or nothing more after its first word.
FROZEN = 3600.0


async def ask(stand: Stand, body: dict[str, Any]) -> httpx.Response:
    async with stand.client() as client:
        return await client.post("/chat/completions", json=body)


def recorded(stand: Stand) -> tuple[End, str | None, Usage | None]:
    (settled,) = stand.meter.settled
    return settled.end, settled.code, settled.usage


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_finished(stand: Stand, body: dict[str, Any]) -> None:
    assert (await ask(stand, body)).status_code == 200
    assert recorded(stand) == (End.FINISHED, None, Usage(5, 3))


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    ("refusal", "code"),
    [(ContextLengthExceeded("x"), "context_length_exceeded"), (Overloaded("x"), "overloaded")],
)
async def test_refused_by_the_engine(
    stand: Stand, body: dict[str, Any], refusal: FoundryError, code: str
) -> None:
    stand.engine.refusal = refusal
    assert (await ask(stand, body)).status_code in (400, 503)
    assert recorded(stand) == (End.REFUSED, code, None)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"model": "smollm2", "messages": 3}, "invalid_value"),
        (CHAT | {"model": "nope"}, "model_not_found"),
        (CHAT | {"model": "stopped"}, "no_healthy_upstream"),
    ],
)
async def test_refused_before_dispatch(stand: Stand, body: dict[str, Any], code: str) -> None:
    await ask(stand, body)
    assert recorded(stand) == (End.REFUSED, code, None)


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_deadline_before_the_first_byte(
    make_stand: Callable[..., Stand], body: dict[str, Any]
) -> None:
    stand = make_stand(FakeEngine(first_s=FROZEN), request_timeout_s=0.1)
    answer = await ask(stand, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert recorded(stand) == (End.DEADLINE_BEFORE_FIRST_BYTE, "deadline_exceeded", None)


async def test_deadline_in_resolution(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(request_timeout_s=0.1)
    answer = await ask(stand, CHAT | {"model": "slow"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert recorded(stand) == (End.DEADLINE_BEFORE_FIRST_BYTE, None, None)


async def test_deadline_in_authentication(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(request_timeout_s=0.1)
    async with stand.client({"authorization": "Bearer slow"}) as client:
        answer = await client.post("/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert len(answer.headers["x-request-id"]) == 36
    assert stand.meter.settled == []


async def test_deadline_after_the_first_byte(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(FakeEngine(gap_s=FROZEN), request_timeout_s=0.3)
    answer = await ask(stand, STREAM)
    assert answer.status_code == 200
    assert b"stream_interrupted" in answer.content
    assert recorded(stand) == (End.DEADLINE_AFTER_FIRST_BYTE, "deadline_exceeded", Usage(5, 1))


@pytest.mark.parametrize("read", [0, 1, 2])
async def test_a_client_that_does_not_read(make_stand: Callable[..., Stand], read: int) -> None:
    """Nothing after its first messages; the stream ends at its deadline nevertheless."""
    stand = make_stand(request_timeout_s=0.3)
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        if asked:
            await asyncio.Event().wait()
        asked.append(True)
        return {"type": "http.request", "body": json.dumps(STREAM).encode()}

    async def send(message: Any) -> None:
        if len(sent) >= read:
            await asyncio.Event().wait()
        sent.append(message["type"])

    asked: list[bool] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/chat/completions",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer good")],
    }
    async with asyncio.timeout(30):
        await stand.app(scope, receive, send)
    assert sent == ["http.response.start", "http.response.body"][:read]
    (end, code, _) = recorded(stand)
    assert (end, code) == (End.DEADLINE_AFTER_FIRST_BYTE, "deadline_exceeded")


async def leave(stand: Stand, body: dict[str, Any], *, once_sent: bool) -> None:
    """Ask, and hang up when the engine is at it (and something has come)."""
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": json.dumps(body).encode()})
    content = asyncio.Event()

    async def send(message: Any) -> None:
        if message.get("body"):
            content.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/chat/completions",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer good")],
    }
    serving = asyncio.create_task(stand.app(scope, inbox.get, send))
    async with asyncio.timeout(30):
        if once_sent:
            await content.wait()
        while not stand.engine.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        inbox.put_nowait({"type": "http.disconnect"})
        await serving


@pytest.mark.parametrize(
    ("engine", "body", "once_sent", "usage"),
    [
        (FakeEngine(first_s=FROZEN), CHAT, False, None),
        (FakeEngine(first_s=FROZEN), STREAM, False, None),
        (FakeEngine(gap_s=FROZEN), STREAM, True, Usage(5, 1)),
    ],
)
async def test_client_left(
    make_stand: Callable[..., Stand],
    engine: FakeEngine,
    body: dict[str, Any],
    once_sent: bool,
    usage: Usage | None,
) -> None:
    stand = make_stand(engine)
    await leave(stand, body, once_sent=once_sent)
    assert recorded(stand) == (End.CLIENT_LEFT, None, usage)


@pytest.mark.parametrize(("words", "usage"), [(1, Usage(5, 1)), (2, Usage(5, 2))])
async def test_the_engine_died_in_the_stream(stand: Stand, words: int, usage: Usage) -> None:
    stand.engine.dies_after = words
    assert b"stream_interrupted" in (await ask(stand, STREAM)).content
    assert recorded(stand) == (End.ENGINE_DIED, "engine_failed", usage)


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_the_replica_died_before_the_first_byte(stand: Stand, body: dict[str, Any]) -> None:
    stand.upstream.cut_after = 1
    assert (await ask(stand, body)).status_code == 503
    assert recorded(stand) == (End.ENGINE_DIED, "engine_failed", None)


async def test_internal_before_dispatch(stand: Stand) -> None:
    assert (await ask(stand, CHAT | {"model": "bug"})).status_code == 500
    assert recorded(stand) == (End.INTERNAL, None, None)


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_internal_after_dispatch(stand: Stand, body: dict[str, Any]) -> None:
    stand.upstream.bug = ZeroDivisionError("a bug of ours")
    assert (await ask(stand, body)).status_code == 500
    assert recorded(stand) == (End.INTERNAL, None, None)


def test_the_budget_is_a_tenth_of_the_last_ten_seconds() -> None:
    now = 0.0
    budget = RetryBudget(lambda: now)
    assert [budget.take_retry() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    for _ in range(100):
        budget.count_request()
    assert [budget.take_retry() for _ in range(6)] == [True] * 5 + [False]
    now = WINDOW_S
    assert [budget.take_retry() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
