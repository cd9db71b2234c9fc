"""What every document says: the errors as they are sent, the key, and nothing of the framework."""

import json
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel

from foundry.errors import FoundryError
from foundry.infra.http import allow_anyone, require_permission
from foundry.infra.http.errors import STATUS, ErrorBody, error_body, status_of
from foundry.infra.http.openapi import REFUSALS, Notes, document_api
from tests.architecture.surface import error_tree


class Order(BaseModel):
    size: int


@pytest.fixture
def document() -> dict[str, Any]:
    app = FastAPI(title="shop", version="1", servers=[{"url": "/shop"}])
    write = [Depends(require_permission("orders:write"))]

    @app.get("/health", operation_id="health", dependencies=[Depends(allow_anyone)])
    async def health() -> None: ...

    @app.post("/orders", operation_id="orders_create", dependencies=write, status_code=201)
    async def create(body: Order, when: Annotated[str, Query(description="own")] = "") -> None: ...

    @app.get("/orders/{order_id}", operation_id="orders_get", dependencies=write)
    async def get(order_id: str) -> Order:
        return Order(size=1)

    notes = Notes(
        description="A shop.",
        refusals={"orders_create": (409,)},
        words={"size": "how large", "when": "not used", "order_id": "which"},
        examples={"orders_create": {"size": 1}},
    )
    document_api(app, notes)
    assert app.openapi() is app.openapi()
    return app.openapi()


def statuses(document: dict[str, Any], method: str, path: str) -> set[int]:
    return {int(status) for status in document["paths"][path][method]["responses"]}


def test_an_operation_documents_what_it_can_be_refused_with(document: dict[str, Any]) -> None:
    always = {400, 500, 503, 504}
    assert statuses(document, "get", "/health") == {200} | always
    assert statuses(document, "post", "/orders") == {201, 401, 403, 409, 413} | always
    assert statuses(document, "get", "/orders/{order_id}") == {200, 401, 403, 404} | always
    refused = document["paths"]["/orders"]["post"]["responses"]["409"]
    assert refused == {"$ref": "#/components/responses/Conflict"}
    assert "ValidationError" not in json.dumps(document)


def test_the_key_is_needed_where_a_permission_is(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/health"]["get"]["security"] == []
    order = document["paths"]["/orders"]["post"]
    assert (order["security"], order["x-foundry-permission"]) == ([{"key": []}], "orders:write")


def test_words_fill_gaps_and_examples_are_shown(document: dict[str, Any]) -> None:
    order = document["paths"]["/orders"]["post"]
    assert document["components"]["schemas"]["Order"]["properties"]["size"]["description"] == (
        "how large"
    )
    assert order["parameters"][0]["description"] == "own"
    assert document["paths"]["/orders/{order_id}"]["get"]["parameters"][0]["description"] == "which"
    assert order["requestBody"]["content"]["application/json"]["example"] == {"size": 1}
    assert document["info"] == {"title": "shop", "version": "1", "description": "A shop."}


@pytest.mark.parametrize("status", REFUSALS)
def test_a_documented_refusal_is_sent_like_that(status: int) -> None:
    refusal = REFUSALS[status]
    assert status_of(refusal.example) == status
    ErrorBody.model_validate(error_body(refusal.example))


def test_every_status_of_an_error_is_documented() -> None:
    assert set(REFUSALS) == set(STATUS.values())


@pytest.mark.parametrize("kind", list(error_tree()), ids=lambda kind: str(kind.__name__))
def test_every_error_has_the_documented_body(kind: type[FoundryError]) -> None:
    body = error_body(kind("what happened", param="x", row=3))
    read = ErrorBody.model_validate(body).error
    assert (read.code, read.param, read.details) == (kind.code, "x", {"row": 3})
