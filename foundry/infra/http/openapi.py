"""The parts of an OpenAPI document that follow from the stages and the error tree.

FastAPI documents a 422 with a body that no application of ours sends, and none of the errors that
they do send. Which of these an operation can answer with follows from what it takes and needs; what
does not follow is in the application's `Notes`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from foundry.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Conflict,
    DeadlineExceeded,
    DiskFull,
    FoundryError,
    InvalidConfiguration,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
)
from foundry.infra.http.errors import ErrorBody, error_body
from foundry.infra.http.permissions import PUBLIC, list_permissions

Document = dict[str, Any]

_DONE = {
    "200": "as asked",
    "201": "made",
    "202": "accepted: it goes on in the background, and the answer is how it stands now",
    "204": "done; there is no body",
}
_RETRY = {"retry-after": "seconds after which to try again"}
_CHALLENGE = {"www-authenticate": "Bearer"}
# pydantic tells equally named models of two slices apart by the paths of their modules.
_QUALIFIED = re.compile(r"foundry__\w+?__(\w+?)__schemas__(\w+)")
_CONVERTED = re.compile(r"\{(\w+):\w+\}")
_FRAMEWORK = ("HTTPValidationError", "ValidationError")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is an error, shared by all operations that can give it.

    Attributes:
        name: of the shared response.
        example: an error whose body is shown.
        headers: that it has beside those of every answer.
    """

    name: str
    description: str
    example: FoundryError
    headers: Mapping[str, str] = field(default_factory=dict)


REFUSALS: Mapping[int, Refusal] = {
    400: Refusal(
        "Invalid",
        "something that was sent is wrong; `param` says what",
        InvalidRequest("name is required", param="name"),
    ),
    401: Refusal(
        "Unauthenticated",
        "no API key was sent, or one that is not valid",
        Unauthenticated("no API key was sent: send `Authorization: Bearer fk_...`"),
        _CHALLENGE,
    ),
    403: Refusal(
        "Forbidden",
        "the key's role or scopes do not allow it",
        PermissionDenied(
            "this key lacks the permission jobs:write: its role or its scopes leave it out; ask an "
            "administrator for another key",
            permission="jobs:write",
        ),
    ),
    404: Refusal(
        "NotFound",
        "what is named does not exist, or belongs to somebody else",
        NotFound("there is no job 0198f3c2-0000-7000-8000-000000000001"),
    ),
    408: Refusal(
        "TooSlow", "the upload falls below the slowest pace", BodyTooSlow("the upload is too slow")
    ),
    409: Refusal(
        "Conflict",
        "it contradicts what there is: it exists, moved, ended, or is in use",
        Conflict(
            "job 0198f3c2-0000-7000-8000-000000000001 is RUNNING: only a failed or "
            "cancelled one resumes"
        ),
    ),
    413: Refusal(
        "TooLarge",
        "the body is larger than FOUNDRY_HTTP__MAX_BODY_BYTES, or an upload than "
        "FOUNDRY_HTTP__MAX_UPLOAD_BYTES",
        BodyTooLarge("the body exceeds 8388608 bytes", limit_bytes=8388608),
    ),
    422: Refusal(
        "Infeasible",
        "a configuration that cannot run; `details.violations` lists why",
        InvalidConfiguration(
            "this server's engines run vllm, not sglang",
            violations=["this server's engines run vllm, not sglang"],
        ),
    ),
    500: Refusal(
        "Failed",
        "a fault of the server; its log has it under the request's id",
        FoundryError("internal error; the server's log has it under request 0198f3c2-…"),
    ),
    503: Refusal(
        "Unavailable",
        "the server is overloaded, or a part that it needs is away: try again later",
        Overloaded("512 requests are in flight here; retry after a moment"),
        _RETRY,
    ),
    504: Refusal(
        "TooLate",
        "the answer did not begin in time",
        DeadlineExceeded("the answer did not begin within 600 seconds; retry later"),
        _RETRY,
    ),
    507: Refusal(
        "NoRoom",
        "the store of files is full",
        DiskFull("the disk of the object store is full: free some space, then try again"),
    ),
}


@dataclass(frozen=True, slots=True)
class Notes:
    """What a document says beside what follows from the routes.

    Attributes:
        description: of the whole, in Markdown.
        refusals: by operation id, statuses that do not follow from what the operation takes.
        words: descriptions of fields and parameters that mean the same wherever they occur.
        examples: by operation id, a body that is accepted.
    """

    description: str
    refusals: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    examples: Mapping[str, object] = field(default_factory=dict)


def document_api(app: FastAPI, notes: Notes) -> None:
    """Let `app.openapi()` be the whole document, made when it is asked for first."""

    def openapi() -> Document:
        if app.openapi_schema is None:
            app.openapi_schema = build_document(app, notes)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def build_document(app: FastAPI, notes: Notes) -> Document:
    """The OpenAPI document of an application, with its errors, key, words and examples."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=notes.description,
        routes=app.routes,
        servers=app.servers,
    )
    document: Document = json.loads(_QUALIFIED.sub(_short_name, json.dumps(made)))
    # The document has `{name}` where a route says how much of the path it is, `{name:path}`.
    permissions = {
        _CONVERTED.sub(r"{\1}", where): permission
        for where, permission in list_permissions(app).items()
    }
    _add_components(document)
    for where, operation in list_operations(document):
        _complete_operation(operation, permissions[where], notes)
    for schema in document["components"]["schemas"].values():
        for name, described in schema.get("properties", {}).items():
            _describe(described, name, notes)
    return document


def list_operations(document: Document) -> Iterator[tuple[str, Document]]:
    """`METHOD path` and the operation that it leads to, for each."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def _short_name(match: re.Match[str]) -> str:
    return match[1].capitalize() + match[2]


def _add_components(document: Document) -> None:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _FRAMEWORK:
        schemas.pop(name, None)
    own = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= own.pop("$defs") | {"ErrorBody": own}
    components["responses"] = {
        refusal.name: {
            "description": refusal.description,
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in refusal.headers.items()
            },
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ErrorBody"},
                    "example": error_body(refusal.example),
                }
            },
        }
        for refusal in REFUSALS.values()
    }
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "an API key, `fk_live_...`; `foundry keys create` makes one",
        }
    }


def _complete_operation(operation: Document, permission: str, notes: Notes) -> None:
    public = permission == PUBLIC
    operation["security"] = [] if public else [{"key": []}]
    operation["x-foundry-permission"] = permission
    _complete_success(operation["responses"])
    for status in sorted(_refusals_of(operation, notes, public=public)):
        name = REFUSALS[status].name
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/{name}"}
    for parameter in operation.get("parameters", ()):
        _describe(parameter, parameter["name"], notes)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None and (example := notes.examples.get(operation["operationId"])) is not None:
        body["example"] = example


def _complete_success(responses: Document) -> None:
    """Drop FastAPI's 422, name each success in our words, and give all of them the same body."""
    responses.pop("422", None)
    bodies = [answer["content"] for answer in responses.values() if "content" in answer]
    for status, answer in responses.items():
        if answer["description"] == "Successful Response":
            answer["description"] = _DONE[status]
        if bodies and status != "204":
            answer["content"] = bodies[0]


def _refusals_of(operation: Document, notes: Notes, *, public: bool) -> set[int]:
    # Headers of every request are limited, and any of them may come too often or take too long.
    statuses = {400, 500, 503, 504, *notes.refusals.get(operation["operationId"], ())}
    if not public:
        statuses |= {401, 403}
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
        statuses.add(404)
    if "requestBody" in operation:
        statuses.add(413)
    return statuses


def _describe(described: Document, name: str, notes: Notes) -> None:
    if "description" not in described and name in notes.words:
        described["description"] = notes.words[name]
