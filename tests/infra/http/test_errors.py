"""Errors on HTTP have one body, whoever found them, and our words in it."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from foundry.errors import NoHealthyUpstream, Overloaded, Unauthenticated
from foundry.infra.http.errors import install_error_handlers


class Order(BaseModel):
    size: int


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)

    @app.post("/orders")
    async def order(body: Order) -> None:
        return

    @app.get("/fails/{kind}")
    async def fail(kind: str) -> None:
        raise {
            "cooldown": NoHealthyUpstream("gone", retry_after_s=7.2),
            "full": Overloaded("full"),
            "stranger": Unauthenticated("who are you?"),
            "framework": HTTPException(502, "upstream said no"),
        }[kind]

    return app


async def ask(app: FastAPI, method: str, path: str, body: bytes = b"") -> tuple[int, Any, Any]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answer = await client.request(
            method, path, content=body, headers={"content-type": "application/json"}
        )
    return answer.status_code, answer.json()["error"], answer.headers


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "message"),
    [
        ("POST", "/orders", b"{", 400, "invalid_value", "the body is not valid JSON"),
        (
            "POST",
            "/orders",
            b'{"size":"\xff"}',
            400,
            "invalid_value",
            "the body cannot be read: send JSON in UTF-8",
        ),
        (
            "POST",
            "/orders",
            b'{"size":"x"}',
            400,
            "invalid_value",
            "size must be a whole number",
        ),
        ("POST", "/orders", b"", 400, "invalid_value", "the body is required"),
        ("POST", "/orders", b"[]", 400, "invalid_value", "the body must be an object"),
        ("GET", "/nope", b"", 404, "not_found", "no such route: GET /nope; /docs lists them all"),
        (
            "GET",
            "/orders",
            b"",
            405,
            "method_not_allowed",
            "not allowed: GET /orders; /docs lists what is",
        ),
        (
            "GET",
            "/fails/framework",
            b"",
            500,
            "internal_error",
            "GET /fails/framework cannot be answered now; retry later",
        ),
    ],
)
async def test_what_is_wrong_in_our_words(
    app: FastAPI, method: str, path: str, body: bytes, status: int, code: str, message: str
) -> None:
    found, error, _ = await ask(app, method, path, body)
    assert (found, error["code"], error["message"]) == (status, code, message)


@pytest.mark.parametrize(
    ("kind", "status", "header", "value"),
    [
        ("cooldown", 503, "retry-after", "8"),
        ("full", 503, "retry-after", "1"),
        ("stranger", 401, "www-authenticate", "Bearer"),
    ],
)
async def test_headers_of_an_error(
    app: FastAPI, kind: str, status: int, header: str, value: str
) -> None:
    found, _, headers = await ask(app, "GET", f"/fails/{kind}")
    assert (found, headers[header]) == (status, value)
