"""The stages around every application: their order, and what each one refuses."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from foundry.infra.http.ends import RecordEnd
from foundry.infra.http.presence import WatchClient
from foundry.infra.http.scopes import Stage
from foundry.infra.http.sizes import SizeLimit
from foundry.infra.http.stages import (
    MIDDLEWARE_ORDER,
    Authenticate,
    Deadline,
    LoadShed,
    RequestId,
)
from tests.infra.http.application import Staged


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert len(answer.headers["x-request-id"]) == 36
    return answer.status_code, body["error"]["type"], body["error"]["code"]


def test_order() -> None:
    assert (
        RequestId,
        RecordEnd,
        WatchClient,
        SizeLimit,
        LoadShed,
        Deadline,
        Authenticate,
    ) == MIDDLEWARE_ORDER


@pytest.mark.parametrize("key", [None, "Bearer wrong", "Basic Z29vZA=="])
async def test_unauthenticated(key: str | None) -> None:
    async with Staged().client(key) as client:
        answer = await client.post("/echo", content=b"x")
    assert error(answer) == (401, "authentication_error", "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_two_authorization_headers_are_none() -> None:
    async with Staged().client(None) as client:
        twice = [("authorization", "Bearer good"), ("authorization", "Bearer good")]
        assert (await client.post("/echo", headers=twice)).status_code == 401


async def test_an_unauthenticated_body_is_not_read() -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"{}"

    async with Staged().client(None) as client:
        assert (await client.post("/echo", content=body())).status_code == 401
    assert read == 0


async def test_body_limit_declared_and_streamed() -> None:
    staged = Staged(max_body_bytes=1024)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 512

    expected = (413, "invalid_request_error", "body_too_large")
    async with staged.client() as client:
        assert error(await client.post("/echo", content=b" " * 1025)) == expected
        assert error(await client.post("/echo", content=parts())) == expected
        assert (await client.post("/echo", content=b" " * 1024)).json() == {"bytes": 1024}
    # The declared one never reached authentication.
    assert staged.authenticator.asked == 2


@pytest.mark.parametrize("headers", [{f"x-{n}": "1" for n in range(70)}, {"x-large": "1" * 16_384}])
async def test_header_limits(headers: dict[str, str]) -> None:
    async with Staged().client() as client:
        answer = await client.post("/echo", headers=headers)
    assert error(answer) == (400, "invalid_request_error", "invalid_value")


async def test_load_is_shed_before_authentication() -> None:
    staged = Staged(max_in_flight=1)
    inner: list[httpx.Response] = []

    async def body() -> AsyncIterator[bytes]:
        inner.append(await client.post("/echo"))
        inner.append(await client.get("/probe"))
        yield b"{}"

    async with staged.client() as client:
        assert (await client.post("/echo", content=body())).status_code == 200
    assert error(inner[0]) == (503, "server_error", "overloaded")
    assert inner[0].headers["retry-after"] == "1"
    assert inner[1].status_code == 200
    assert staged.authenticator.asked == 1


@pytest.mark.parametrize(("method", "path"), [("POST", "/echo"), ("GET", "/files/x")])
async def test_the_deadline_covers_authentication(method: str, path: str) -> None:
    staged = Staged(request_timeout_s=0.05)
    staged.authenticator.before = asyncio.Event().wait
    async with staged.client() as client:
        answer = await client.request(method, path)
    assert error(answer) == (504, "server_error", "deadline_exceeded")
    (end,) = staged.recorded.ends
    assert (end.stage, end.status) == (Stage.AUTHENTICATION, 504)


async def test_a_file_may_be_sent_for_longer_than_the_deadline() -> None:
    staged = Staged(request_timeout_s=0.05)

    async def body() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.5)
        yield b"x"

    async with staged.client() as client:
        assert (await client.post("/files/x", content=body())).json() == {"bytes": 1}
        assert (await client.post("/echo", content=body())).status_code == 504


async def test_request_id_is_ours() -> None:
    async with Staged().client() as client:
        answer = await client.get("/probe", headers={"x-request-id": "theirs"})
    assert answer.headers["x-request-id"] != "theirs"
    assert answer.headers["x-request-id"][14] == "7"
