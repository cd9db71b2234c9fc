"""The document of /v1: complete, public, and its examples are answered."""

from typing import Any

import httpx
import pytest

from foundry.gateway.app import document_gateway
from foundry.gateway.documentation import BODIES, EXAMPLES
from foundry.infra.http.openapi import list_operations
from tests.gateway.conftest import Stand


async def test_it_needs_no_key(stand: Stand) -> None:
    async with stand.client({}) as client:
        answer = await client.get("/openapi.json")
    assert answer.json() == document_gateway()
    assert stand.authenticator.asked == 0


def test_everything_is_described() -> None:
    document = document_gateway()
    assert document["servers"] == [{"url": "/v1"}]
    for where, operation in list_operations(document):
        assert operation["description"], where
        assert all(found["description"] for found in operation.get("parameters", ())), where
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        assert all("description" in field for field in schema["properties"].values()), name


def test_operations_bodies_and_refusals() -> None:
    found = {
        operation["operationId"]: (where, {s for s in operation["responses"] if s > "4"})
        for where, operation in list_operations(document_gateway())
    }
    always = {"400", "500", "503", "504"}
    keyed = always | {"401", "403"}
    assert found == {
        "chat_completions": ("POST /chat/completions", keyed | {"404", "413"}),
        "completions": ("POST /completions", keyed | {"404", "413"}),
        "inference_models": ("GET /models", keyed),
        "inference_model": ("GET /models/{model_id}", keyed | {"404"}),
        "inference_health": ("GET /health", always),
        "inference_ready": ("GET /ready", always),
    }


@pytest.mark.parametrize("operation", BODIES)
async def test_an_example_is_answered(client: httpx.AsyncClient, operation: str) -> None:
    example: dict[str, Any] = EXAMPLES[operation]  # type: ignore[assignment]
    BODIES[operation].model_validate(example)
    paths = {row["operationId"]: where for where, row in list_operations(document_gateway())}
    method, path = paths[operation].split(" ")
    answer = await client.request(method, path, json={**example, "model": "smollm2"})
    assert answer.status_code == 200, answer.text
