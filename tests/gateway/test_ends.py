"""Every request has exactly one recorded end, with the tokens that were generated until then."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from starlette.types import Message

from foundry.errors import ContextLengthExceeded, DeadlineExceeded, FoundryError, Overloaded
from foundry.gateway import relay, retries
from foundry.gateway.ports import End
from foundry.infra.http.presence import Client
from foundry.infra.http.scopes import Stage
from foundry.infra.wire.frames import Frame, Kind, Usage
from tests.fakes.engine import FakeEngine
from tests.gateway.conftest import CHAT, STREAM, Stand, caller, placed, recorded, target

# A frozen engine: it never says anything, or nothing more after its first word.
FROZEN = 3600.0


async def ask(stand: Stand, body: dict[str, Any]) -> httpx.Response:
    async with stand.client() as client:
        return await client.post("/chat/completions", json=body)


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_finished(stand: Stand, body: dict[str, Any]) -> None:
    assert (await ask(stand, body)).status_code == 200
    assert recorded(stand) == (End.FINISHED, None, Usage(5, 3))
    assert placed(stand) == (Stage.DISPATCH, 200, "chat")


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    ("refusal", "code"),
    [(ContextLengthExceeded("x"), "context_length_exceeded"), (Overloaded("x"), "overloaded")],
)
async def test_refused_by_the_engine(
    stand: Stand, body: dict[str, Any], refusal: FoundryError, code: str
) -> None:
    stand.engine.refusal = refusal
    answer = await ask(stand, body)
    assert answer.status_code == {"overloaded": 503}.get(code, 400)
    assert recorded(stand) == (End.REFUSED, code, None)
    assert placed(stand) == (Stage.DISPATCH, answer.status_code, "chat")


GOOD, WEAK, NARROW = "Bearer good", "Bearer weak", "Bearer narrow"


@pytest.mark.parametrize(
    ("key", "body", "code", "stage", "status"),
    [
        (None, CHAT, "invalid_api_key", Stage.AUTHENTICATION, 401),
        (WEAK, CHAT, "permission_denied", Stage.PERMISSION, 403),
        (GOOD, {"model": "smollm2", "messages": 3}, "invalid_value", Stage.BODY, 400),
        (GOOD, CHAT | {"model": "nope"}, "model_not_found", Stage.RESOLUTION, 404),
        (GOOD, CHAT | {"model": "stopped"}, "no_healthy_upstream", Stage.RESOLUTION, 503),
        (NARROW, CHAT, "permission_denied", Stage.POLICY, 403),
        (GOOD, CHAT | {"user": "x" * 2048}, "body_too_large", Stage.SIZE, 413),
    ],
)
async def test_refused_before_dispatch(
    make_stand: Callable[..., Stand],
    key: str | None,
    body: dict[str, Any],
    code: str,
    stage: Stage,
    status: int,
) -> None:
    stand = make_stand(max_body_bytes=1024)
    async with stand.client({"authorization": key} if key else {}) as client:
        answer = await client.post("/chat/completions", json=body)
    assert answer.status_code == status
    assert recorded(stand) == (End.REFUSED, code, None)
    assert placed(stand) == (stage, status, "chat")
    (settled,) = stand.meter.settled
    assert settled.request_id == answer.headers["x-request-id"]
    assert (settled.principal is None) == (stage in (Stage.AUTHENTICATION, Stage.SIZE))


async def test_a_body_that_grows_too_large_is_refused_by_its_size(
    make_stand: Callable[..., Stand],
) -> None:
    stand = make_stand(max_body_bytes=1024)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 512

    async with stand.client() as client:
        assert (await client.post("/completions", content=parts())).status_code == 413
    assert recorded(stand) == (End.REFUSED, "body_too_large", None)
    assert placed(stand) == (Stage.SIZE, 413, "completions")


async def test_refused_because_no_key_can_be_checked(stand: Stand) -> None:
    stand.authenticator.down = True
    assert (await ask(stand, CHAT)).status_code == 503
    assert recorded(stand) == (End.REFUSED, "database_unavailable", None)
    assert placed(stand) == (Stage.AUTHENTICATION, 503, "chat")


async def test_refused_because_the_gateway_is_full(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(max_in_flight=1)

    async def body() -> AsyncIterator[bytes]:
        assert (await client.post("/completions", json={})).status_code == 503
        yield json.dumps(CHAT).encode()

    async with stand.client() as client:
        assert (await client.post("/chat/completions", content=body())).status_code == 200
    shed, answered = stand.meter.settled
    assert (shed.end, shed.code, shed.stage, shed.status, shed.operation) == (
        End.REFUSED,
        "overloaded",
        Stage.LOAD,
        503,
        "completions",
    )
    assert answered.end is End.FINISHED


@pytest.mark.parametrize(
    ("method", "path", "end", "stage", "status", "asked"),
    [
        ("GET", "/models", End.FINISHED, Stage.ROUTE, 200, "models"),
        ("GET", "/models/smollm2", End.FINISHED, Stage.ROUTE, 200, "models"),
        ("GET", "/models/nope", End.REFUSED, Stage.ROUTE, 404, "models"),
        ("GET", "/nope/x", End.REFUSED, Stage.ROUTE, 404, "other"),
        ("GET", "/completions", End.REFUSED, Stage.ROUTE, 405, "completions"),
    ],
)
async def test_requests_that_ask_no_engine_end_too(
    stand: Stand, method: str, path: str, end: End, stage: Stage, status: int, asked: str
) -> None:
    async with stand.client() as client:
        assert (await client.request(method, path)).status_code == status
    assert recorded(stand)[0] is end
    assert placed(stand) == (stage, status, asked)


async def test_probes_are_nobodys_requests(stand: Stand) -> None:
    async with stand.client({}) as client:
        await client.get("/health")
        await client.get("/ready")
    assert stand.meter.settled == []


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_deadline_before_the_first_byte(
    make_stand: Callable[..., Stand], body: dict[str, Any]
) -> None:
    stand = make_stand(FakeEngine(first_s=FROZEN), request_timeout_s=0.1)
    answer = await ask(stand, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert recorded(stand) == (End.DEADLINE_BEFORE_FIRST_BYTE, "deadline_exceeded", None)


def call_of(stand: Stand, *, age_s: float, timeout_s: float) -> relay.Call:
    """The call of a request that came `age_s` ago and whose client waits."""

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    request = relay.Request(
        request_id="r1",
        principal=caller("inference:invoke"),
        target=target("smollm2"),
        operation="chat",
        model="smollm2",
        body=b"{}",
        received_at=time.monotonic() - age_s,
        timeout_s=timeout_s,
        client=Client(receive),
    )
    return relay.Call(request, stand.upstream, stand.meter, retries.RetryBudget(), AsyncExitStack())


async def test_a_call_that_is_cancelled_after_its_deadline_ended_by_it(stand: Stand) -> None:
    for timeout_s in (4.0, 600.0):
        await call_of(stand, age_s=5.0, timeout_s=timeout_s).close()
    ends = [settlement.end for settlement in stand.meter.settled]
    assert ends == [End.DEADLINE_BEFORE_FIRST_BYTE, End.SHUT_DOWN]


async def test_deadline_in_resolution(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(request_timeout_s=0.1)
    answer = await ask(stand, CHAT | {"model": "slow"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert recorded(stand) == (End.DEADLINE_BEFORE_FIRST_BYTE, "deadline_exceeded", None)
    assert placed(stand) == (Stage.RESOLUTION, 504, "chat")


async def test_deadline_in_authentication(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(request_timeout_s=0.1)
    async with stand.client({"authorization": "Bearer slow"}) as client:
        answer = await client.post("/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert len(answer.headers["x-request-id"]) == 36
    assert recorded(stand) == (End.DEADLINE_BEFORE_FIRST_BYTE, "deadline_exceeded", None)
    assert placed(stand) == (Stage.AUTHENTICATION, 504, "chat")


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


@pytest.mark.parametrize("frames", [[], [Frame(Kind.DATA, b"data")]])
async def test_an_engine_that_says_nothing_first(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, frames: list[Frame]
) -> None:
    async def stream(*arguments: object) -> AsyncIterator[Frame]:
        for frame in frames:
            yield frame

    monkeypatch.setattr(stand.upstream, "stream", stream)
    assert (await ask(stand, CHAT)).status_code == 503
    assert recorded(stand) == (End.ENGINE_DIED, "engine_failed", None)


async def test_a_request_whose_time_is_over_has_none_left(stand: Stand) -> None:
    with pytest.raises(DeadlineExceeded):
        async with call_of(stand, age_s=10.0, timeout_s=5.0).within_deadline():
            await asyncio.sleep(0.5)


async def test_internal_before_dispatch(stand: Stand) -> None:
    assert (await ask(stand, CHAT | {"model": "bug"})).status_code == 500
    assert recorded(stand) == (End.INTERNAL, None, None)
    assert placed(stand) == (Stage.RESOLUTION, 500, "chat")


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_internal_after_dispatch(stand: Stand, body: dict[str, Any]) -> None:
    stand.upstream.bug = ZeroDivisionError("a bug of ours")
    assert (await ask(stand, body)).status_code == 500
    assert recorded(stand) == (End.INTERNAL, None, None)
