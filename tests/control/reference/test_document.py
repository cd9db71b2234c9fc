"""The API's document: complete, and true of what is sent."""

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from foundry.control.reference.examples import EXAMPLES
from foundry.control.reference.notes import NOTES
from foundry.control.reference.words import WORDS
from foundry.infra.http.openapi import list_operations
from tests.control.client import Control

# Names and phrases of libraries, which no answer of ours holds.
LIBRARY_WORDS = re.compile(
    r"pydantic|starlette|fastapi|sqlalchemy|asyncpg|botocore|orjson|jsondecode|ray\.|uvicorn|"
    r"Field required|Input should|Value error|Traceback|<class|NoneType|unexpected keyword",
    re.IGNORECASE,
)
BODIES = [b"", b"{", b"null", b"[]", b"1", b'"x"', b'{"x": 1}', b'{"name": {"a": 1}}', b"\xff"]
_ID = "0198f3c2-0000-7000-8000-00000000000f"


@pytest.fixture
def document(control_app: FastAPI) -> dict[str, Any]:
    return control_app.openapi()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {operation["operationId"]: operation for _, operation in list_operations(document)}


def test_everything_is_described(document: dict[str, Any]) -> None:
    """At its field or route, or in `reference/words.py` if it means the same anywhere."""
    bare = []
    for name, schema in document["components"]["schemas"].items():
        bare += [name] if "properties" in schema and not schema.get("description") else []
        bare += [
            f"{name}.{field}"
            for field, described in schema.get("properties", {}).items()
            if not described.get("description")
        ]
    for name, operation in operations(document).items():
        bare += [] if operation.get("description") else [name]
        bare += [
            f"{name}({parameter['name']})"
            for parameter in operation.get("parameters", ())
            if not parameter.get("description")
        ]
    assert not bare


def test_every_word_is_used(document: dict[str, Any]) -> None:
    used = {
        name
        for schema in document["components"]["schemas"].values()
        for name, field in schema.get("properties", {}).items()
        if field["description"] == WORDS.get(name)
    } | {
        parameter["name"]
        for operation in operations(document).values()
        for parameter in operation.get("parameters", ())
    }
    assert set(WORDS) <= used


def test_nothing_of_the_framework_is_left(document: dict[str, Any]) -> None:
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
    assert not [name for name in document["components"]["schemas"] if "__" in name]
    for operation in operations(document).values():
        for answer in operation["responses"].values():
            assert answer.get("description") != "Successful Response"


def test_every_body_has_an_example_and_no_example_is_left_over(document: dict[str, Any]) -> None:
    taking = {
        name
        for name, operation in operations(document).items()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    assert taking == set(EXAMPLES)


def test_no_note_is_about_an_operation_that_is_gone(document: dict[str, Any]) -> None:
    assert set(NOTES.refusals) <= set(operations(document))


def test_operations_are_limited_to_keys_but_for_probes(document: dict[str, Any]) -> None:
    public = [name for name, found in operations(document).items() if not found["security"]]
    assert public == ["health"]


def fill(path: str) -> str:
    """A path whose names are well-formed and belong to nothing."""
    known = {"number": "7", "before": "1", "after": "2", "name": "none"}
    return re.sub(
        r"\{(\w+)\}",
        lambda match: known.get(match[1], _ID if match[1].endswith("_id") else "none"),
        path,
    )


def check_refusal(operation: dict[str, Any], status: int, text: str) -> None:
    assert str(status) in operation["responses"], (operation["operationId"], status, text)
    assert not LIBRARY_WORDS.search(text), (operation["operationId"], text)


@pytest.mark.postgres
@pytest.mark.parametrize("authorization", ["", "Bearer fk_live_wrong"])
async def test_without_a_key_each_refuses_as_documented(
    control: Control, document: dict[str, Any], authorization: str
) -> None:
    for where, operation in list_operations(document):
        method, path = where.split(" ")
        answer = await control.client.request(
            method, fill(path), headers={"authorization": authorization}
        )
        wanted = 401 if operation["security"] else 200
        assert answer.status_code == wanted, where
        if wanted == 401:
            said = "no API key was sent" if not authorization else "the API key is not valid"
            assert answer.json()["error"]["message"].startswith(said)
        check_refusal(operation, answer.status_code, answer.text)


@pytest.mark.postgres
@pytest.mark.long(reason="sends ten bodies and a wrong query to each of sixty operations")
async def test_what_is_refused_is_documented_and_in_our_words(
    control: Control, document: dict[str, Any]
) -> None:
    for where, operation in list_operations(document):
        method, path = where.split(" ")
        query = {"limit": "x", "cursor": "?", "after": "x", "endpoint_id": "x", "wait": "x"}
        paths = (fill(path), re.sub(r"\{\w+\}", "%00", path), re.sub(r"\{\w+\}", "A b@", path))
        for target in paths:
            for body in BODIES if method != "GET" else [b""]:
                answer = await control.client.request(
                    method,
                    target,
                    content=body,
                    headers={"content-type": "application/json"},
                    params=query if target != paths[0] else {"filename": "x.exe"},
                )
                check_refusal(operation, answer.status_code, answer.text)
                assert answer.status_code < 500, (where, body, answer.text)


@pytest.mark.postgres
async def test_every_example_is_understood(
    control: Control, document: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing of it is invalid; what it names need not be there."""
    for where, operation in list_operations(document):
        if operation["operationId"] not in EXAMPLES:
            continue
        method, path = where.split(" ")
        answer = await control.client.request(
            method, fill(path), json=EXAMPLES[operation["operationId"]]
        )
        assert answer.status_code not in (400, 422), (where, answer.text)
        check_refusal(operation, answer.status_code, answer.text)
