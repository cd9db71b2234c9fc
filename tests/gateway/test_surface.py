"""Error bodies, models, probes."""

from typing import Any

import httpx
import pytest

from foundry.gateway.ports import End
from foundry.infra.http.readiness import Readiness
from foundry.infra.http.stages import MIDDLEWARE_ORDER
from tests.gateway.conftest import CHAT as BODY
from tests.gateway.conftest import Stand

CHAT = "/chat/completions"


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert set(body["error"]) >= {"message", "type", "param", "code"}
    assert len(answer.headers["x-request-id"]) == 36
    return answer.status_code, body["error"]["type"], body["error"]["code"]


def test_order_is_the_applications(stand: Stand) -> None:
    stages: list[object] = [stage.cls for stage in stand.app.user_middleware]
    assert stages == list(MIDDLEWARE_ORDER)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, "invalid_request_error", "invalid_value")),
        (b"[]", (400, "invalid_request_error", "invalid_value")),
        (b"{}", (400, "invalid_request_error", "invalid_value")),
        (b'{"model":7}', (400, "invalid_request_error", "invalid_value")),
        (b'{"model":"smollm2","stream":"yes"}', (400, "invalid_request_error", "invalid_value")),
        (b'{"model":"smollm2"}', (400, "invalid_request_error", "invalid_value")),
        (
            b'{"model":"nope","messages":[{"role":"user","content":"hi"}]}',
            (404, "invalid_request_error", "model_not_found"),
        ),
        (
            b'{"model":"stopped","messages":[{"role":"user","content":"hi"}]}',
            (503, "server_error", "no_healthy_upstream"),
        ),
        (
            b'{"model":"smollm2","x":' + b"[" * 65 + b"]" * 65 + b"}",
            (400, "invalid_request_error", "invalid_value"),
        ),
        (
            b'{"model":"smollm2","messages":[{"role":"user","content":'
            b'[{"type":"image_url","image_url":{"url":"http://169.254.169.254/"}}]}]}',
            (400, "invalid_request_error", "unsupported"),
        ),
    ],
)
async def test_refused_bodies(
    stand: Stand, client: httpx.AsyncClient, body: bytes, expected: tuple[int, str, str]
) -> None:
    assert error(await client.post(CHAT, content=body)) == expected
    assert stand.engine.calls == []
    (settled,) = stand.meter.settled
    assert (settled.end, settled.code, settled.target) == (End.REFUSED, expected[2], None)


async def test_many_brackets_side_by_side_are_not_deep(client: httpx.AsyncClient) -> None:
    body = BODY | {"logit_bias": [[] for _ in range(200)]}
    assert (await client.post(CHAT, json=body)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nope", (404, "invalid_request_error", "not_found")),
        ("GET", CHAT, (405, "invalid_request_error", "method_not_allowed")),
        ("GET", "/models/nope", (404, "invalid_request_error", "model_not_found")),
    ],
)
async def test_framework_errors_have_openais_body(
    client: httpx.AsyncClient, method: str, path: str, expected: tuple[int, str, str]
) -> None:
    assert error(await client.request(method, path)) == expected


async def test_an_unforeseen_error_has_openais_body(
    stand: Stand, client: httpx.AsyncClient
) -> None:
    stand.app.state.plane = None
    answer = await client.post(CHAT, json={"model": "smollm2"})
    assert error(answer) == (500, "server_error", "internal_error")
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]


async def test_missing_permission(stand: Stand) -> None:
    async with stand.client({"authorization": "Bearer weak"}) as client:
        answer = await client.post(CHAT, json={"model": "smollm2"})
    assert error(answer) == (403, "permission_error", "permission_denied")


async def test_database_down_refuses(stand: Stand, client: httpx.AsyncClient) -> None:
    stand.authenticator.down = stand.database.down = True
    assert error(await client.get("/models")) == (503, "server_error", "database_unavailable")
    assert error(await client.get("/ready")) == (503, "server_error", "database_unavailable")
    assert (await client.get("/health")).json() == {"status": "ok"}
    stand.authenticator.down = stand.database.down = False
    # The verdict holds for a second.
    stand.app.state.readiness = Readiness(stand.database)
    assert (await client.get("/ready")).json() == {"status": "ready"}


async def test_probes_need_no_key(stand: Stand) -> None:
    async with stand.client({}) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
    assert stand.authenticator.asked == 0


async def test_models(client: httpx.AsyncClient) -> None:
    base: dict[str, Any] = {
        "id": "smollm2",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "foundry",
        "parent": None,
        "context_length": 2048,
        "max_model_len": 2048,
    }
    adapter = base | {
        "id": "org/support-bot@production",
        "created": 1_700_000_001,
        "parent": "smollm2",
    }
    assert (await client.get("/models")).json() == {"object": "list", "data": [base, adapter]}
    assert (await client.get("/models/org/support-bot@production")).json() == adapter
