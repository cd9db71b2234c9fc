"""Errors on HTTP: one status map, one body in OpenAI's shape, for both applications."""

import math
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from foundry.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Conflict,
    DeadlineExceeded,
    EngineFailed,
    FoundryError,
    InvalidConfiguration,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SetupError,
    Unauthenticated,
    Unavailable,
)
from foundry.infra.http.scopes import note_error, request_id
from foundry.validation import find_problem

STATUS: dict[type[FoundryError], int] = {
    BodyTooLarge: 413,
    BodyTooSlow: 408,
    InvalidConfiguration: 422,
    InvalidRequest: 400,
    Unauthenticated: 401,
    PermissionDenied: 403,
    NotFound: 404,
    Conflict: 409,
    DeadlineExceeded: 504,
    Unavailable: 503,
    ResourceExhausted: 507,
    EngineFailed: 503,
    SetupError: 503,
    FoundryError: 500,
}

_TYPES: dict[type[FoundryError], str] = {
    InvalidRequest: "invalid_request_error",
    Unauthenticated: "authentication_error",
    PermissionDenied: "permission_error",
    NotFound: "invalid_request_error",
    Conflict: "conflict_error",
    FoundryError: "server_error",
}


class ErrorOut(BaseModel):
    """What is wrong, and what to do about it."""

    model_config = ConfigDict(extra="forbid")

    message: str = Field(description="a sentence for a person")
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "conflict_error",
        "server_error",
    ] = Field(description="the kind of error, as OpenAI's clients read it")
    param: str | None = Field(
        description="the parameter or field that is wrong, like config.lr; null: no single one"
    )
    code: str = Field(description="names the error for programs, and does not change")
    details: dict[str, object] = Field(default={}, description="more for programs, by the code")


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorOut = Field(description="what is wrong")


def status_of(error: FoundryError) -> int:
    """The HTTP status of an error's nearest class in the map."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_body(error: FoundryError) -> dict[str, dict[str, object]]:
    """OpenAI's error body, used by `/v1` and `/api` alike."""
    kind = next(_TYPES[cls] for cls in type(error).__mro__ if cls in _TYPES)
    body: dict[str, object] = {
        "message": error.message,
        "type": kind,
        "param": error.details.get("param"),
        "code": error.code,
    }
    if details := {k: v for k, v in error.details.items() if k != "param"}:
        body["details"] = details
    return {"error": body}


def error_response(error: FoundryError) -> JSONResponse:
    """The answer that tells `error`, with the headers that its kind has."""
    response = JSONResponse(error_body(error), status_code=status_of(error))
    if isinstance(error, Unavailable | EngineFailed):
        response.headers["retry-after"] = "1"
    cooldown = error.details.get("retry_after_s")
    if isinstance(cooldown, float | int):
        response.headers["retry-after"] = str(max(1, math.ceil(cooldown)))
    if isinstance(error, Unauthenticated):
        response.headers["www-authenticate"] = "Bearer"
    return response


async def send_error(error: FoundryError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with `error`, and note it in the scope for the record of its end."""
    note_error(scope, error)
    await error_response(error)(scope, receive, send)


def install_error_handlers(app: FastAPI) -> None:
    """Every error of the application's routes gets OpenAI's body, also framework-made ones."""

    @app.exception_handler(FoundryError)
    async def on_foundry_error(request: Request, error: FoundryError) -> JSONResponse:
        return _answer_error(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _answer_error(request, _to_invalid_request(error))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        return _answer_framework_error(request, error)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        own = request_id(request.scope)
        response = error_response(
            FoundryError(f"internal error; the server's log has it under request {own}")
        )
        response.headers["x-request-id"] = own
        return response


def _answer_error(request: Request, error: FoundryError) -> JSONResponse:
    note_error(request.scope, error)
    return error_response(error)


def _to_invalid_request(error: RequestValidationError) -> InvalidRequest:
    """The first problem, by its place in the query, the path or the body."""
    problems = error.errors()
    source = problems[0]["loc"][0]
    inside = [
        {**problem, "loc": problem["loc"][1:]}
        for problem in problems
        if problem["loc"][:1] == (source,)
    ]
    sent = error.body if source == "body" else {part["loc"][0]: None for part in inside}
    problem = find_problem(inside, sent)
    text = problem.tell(problem.where or "the body")
    return InvalidRequest(text, param=problem.where or None)


def _answer_framework_error(request: Request, error: HTTPException) -> JSONResponse:
    """An error that the framework found, by its status: its own words are left out."""
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return _answer_error(request, NotFound(f"no such route: {where}; /docs lists them all"))
    if error.status_code == 405:
        body = error_body(InvalidRequest(f"not allowed: {where}; /docs lists what is"))
        body["error"] |= {"code": "method_not_allowed"}
        return JSONResponse(body, status_code=405, headers=dict(error.headers or {}))
    if error.status_code < 500:
        return _answer_error(request, InvalidRequest("the body cannot be read: send JSON in UTF-8"))
    return _answer_error(request, FoundryError(f"{where} cannot be answered now; retry later"))
