"""Golden bytes of OpenAI's surface."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from foundry.errors import ContextLengthExceeded, NoHealthyUpstream, Overloaded
from foundry.gateway import responses, retries
from foundry.gateway.ports import End
from foundry.infra.wire.frames import Usage
from tests.fakes.engine import FakeEngine
from tests.gateway.conftest import ADAPTER_ID, ADAPTER_UID, Stand

CHAT: dict[str, Any] = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}


def chunk(request_id: str, model: str, choices: list[Any], **more: Any) -> bytes:
    value = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": model,
        "choices": choices,
    }
    return b"data: " + json.dumps(value | more, separators=(",", ":")).encode() + b"\n\n"


def delta(finish: str | None = None, **content: str) -> dict[str, Any]:
    return {"index": 0, "delta": content, "logprobs": None, "finish_reason": finish}


async def test_stream_is_exactly_openais(stand: Stand, client: httpx.AsyncClient) -> None:
    body = CHAT | {"model": "support-bot@production", "stream": True}
    answer = await client.post("/chat/completions", json=body)

    name, request_id = "support-bot@production", answer.headers["x-request-id"]
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert "content-length" not in answer.headers
    assert answer.content == b"".join(
        [
            chunk(request_id, name, [delta(role="assistant")]),
            chunk(request_id, name, [delta(content="Hello")]),
            chunk(request_id, name, [delta(content=" world")]),
            chunk(request_id, name, [delta("stop", content="!")]),
            b"data: [DONE]\n\n",
        ]
    )
    (context,) = stand.engine.calls
    assert (context.adapter_uid, context.adapter_version_id) == (ADAPTER_UID, str(ADAPTER_ID))
    assert answer.headers["x-foundry-model-version"] == "support-bot@0.1.0"


async def test_usage_chunk_comes_when_asked_for(client: httpx.AsyncClient) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post("/chat/completions", json=body)

    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    last = chunk(answer.headers["x-request-id"], "smollm2", [], usage=usage)
    assert answer.content.endswith(last + b"data: [DONE]\n\n")


async def test_whole_answer(stand: Stand, client: httpx.AsyncClient) -> None:
    answer = await client.post("/chat/completions", json=CHAT)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["model"] == "smollm2"
    assert answer.json()["choices"][0]["message"]["content"] == "Hello world!"
    (settled,) = stand.meter.settled
    assert (settled.end, settled.usage) == (End.FINISHED, Usage(5, 3))


async def test_body_is_forwarded_as_it_came(stand: Stand, client: httpx.AsyncClient) -> None:
    raw = b'{ "model":"smollm2",  "prompt": "Once",\n "seed": 1e3}'
    await client.post("/completions", content=raw)
    assert stand.engine.bodies == [raw]


@pytest.mark.parametrize("streamed", [False, True])
async def test_refusal_keeps_its_status(
    stand: Stand, client: httpx.AsyncClient, streamed: bool
) -> None:
    stand.engine.refusal = ContextLengthExceeded("the prompt has 9000 tokens", param="messages")
    answer = await client.post("/chat/completions", json=CHAT | {"stream": streamed})

    assert answer.status_code == 400
    assert answer.json() == {
        "error": {
            "message": "the prompt has 9000 tokens",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }
    assert len(stand.engine.calls) == 1
    assert [s.code for s in stand.meter.settled] == ["context_length_exceeded"]


async def test_engine_death_in_the_stream_is_an_error_without_done(
    stand: Stand, client: httpx.AsyncClient
) -> None:
    stand.engine.dies_after = 2
    answer = await client.post("/chat/completions", json=CHAT | {"stream": True})

    assert answer.status_code == 200
    *events, last, rest = answer.content.split(b"\n\n")
    assert len(events) == 3
    assert rest == b""
    assert json.loads(last.removeprefix(b"data: ")) == {
        "error": {
            "message": "the answer was interrupted: the engine failed while it answered; "
            "its log has the cause",
            "type": "server_error",
            "param": None,
            "code": "stream_interrupted",
        }
    }
    assert [s.end for s in stand.meter.settled] == [End.ENGINE_DIED]
    # Two words were generated and handed on before it died.
    assert stand.meter.settled[0].usage == Usage(5, 2)


async def test_replica_death_in_the_stream(stand: Stand, client: httpx.AsyncClient) -> None:
    stand.engine.gap_s = 0.05
    stand.upstream.cut_after = 2
    answer = await client.post("/chat/completions", json=CHAT | {"stream": True})
    assert b"stream_interrupted" in answer.content
    assert b"[DONE]" not in answer.content


@pytest.mark.parametrize("failure", [NoHealthyUpstream("x"), Overloaded("x")])
async def test_retried_before_the_first_byte(
    stand: Stand, client: httpx.AsyncClient, failure: Exception
) -> None:
    stand.upstream.failures = [failure, failure]  # type: ignore[list-item]
    answer = await client.post("/chat/completions", json=CHAT | {"stream": True})
    assert answer.status_code == 200
    assert answer.headers["x-foundry-attempts"] == "3"


async def test_third_failure_is_the_answer(stand: Stand, client: httpx.AsyncClient) -> None:
    stand.upstream.failures = [NoHealthyUpstream("gone", retry_after_s=7.2)] * 3
    answer = await client.post("/chat/completions", json=CHAT)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "8"
    assert answer.json()["error"]["code"] == "no_healthy_upstream"


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_an_engine_had_taken_is_not_tried_elsewhere(
    stand: Stand, client: httpx.AsyncClient, streamed: bool
) -> None:
    """A request that kills engines must not walk through all of them."""
    stand.upstream.cut_after = 1
    answer = await client.post("/chat/completions", json=CHAT | {"stream": streamed})
    assert (answer.status_code, len(stand.engine.calls)) == (503, 1)
    assert answer.json()["error"]["code"] == "engine_failed"
    assert answer.headers["retry-after"] == "1"


async def test_retries_have_a_budget(stand: Stand, client: httpx.AsyncClient) -> None:
    stand.upstream.failures = [NoHealthyUpstream("x") for _ in range(100)]
    for _ in range(10):
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 503
    assert len(stand.upstream.app_names) == 10 + retries.FLOOR


async def test_the_budget_grows_with_the_requests(stand: Stand, client: httpx.AsyncClient) -> None:
    for _ in range(100):
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 200
    stand.upstream.failures = [NoHealthyUpstream("x") for _ in range(100)]
    for _ in range(10):
        assert (await client.post("/chat/completions", json=CHAT)).status_code == 503
    # A tenth of the 100 to 110 requests so far, where the floor is five.
    assert len(stand.upstream.app_names) in range(100 + 10 + 10, 100 + 10 + 12)


async def test_deadline_before_the_first_byte(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(FakeEngine(first_s=30), request_timeout_s=0.1)
    async with stand.client() as client:
        answer = await client.post("/chat/completions", json=CHAT | {"stream": True})
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    assert len(stand.engine.cancelled) == 1


async def test_deadline_in_the_stream(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(FakeEngine(gap_s=30), request_timeout_s=0.2)
    async with stand.client() as client:
        answer = await client.post("/chat/completions", json=CHAT | {"stream": True})
    assert b"stream_interrupted" in answer.content
    assert b"[DONE]" not in answer.content


async def test_silence_is_filled_with_pings(
    make_stand: Callable[..., Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses.EventStream.__init__, "__kwdefaults__", {"ping_s": 0.05})
    stand = make_stand(FakeEngine(words=("a", "b"), gap_s=0.3))
    async with stand.client() as client:
        answer = await client.post("/chat/completions", json=CHAT | {"stream": True})
    assert answer.content.count(b": ping\n\n") >= 3
    assert answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("streamed", [False, True])
async def test_disconnect_cancels_the_engine(
    make_stand: Callable[..., Stand], streamed: bool
) -> None:
    stand = make_stand(FakeEngine(first_s=0 if streamed else 30, gap_s=30))
    body = json.dumps(CHAT | {"stream": streamed}).encode()
    inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": body})
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "root_path": "/v1",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer good")],
    }
    serving = asyncio.create_task(stand.app(scope, inbox.get, send))
    async with asyncio.timeout(5):
        while not (stand.engine.calls and (sent or not streamed)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        inbox.put_nowait({"type": "http.disconnect"})
        await serving
    assert [s.end for s in stand.meter.settled] == [End.CLIENT_LEFT]
    assert len(stand.engine.cancelled) == (1 if streamed else 0)
