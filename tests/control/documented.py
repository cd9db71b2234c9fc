"""Holds every answer of the control plane in tests against the document of its operation."""

import re
from functools import cache
from typing import Any

import httpx
from fastapi import FastAPI

from foundry.infra.http.errors import ErrorBody
from foundry.infra.http.openapi import list_operations


class _Documents:
    """The document of the application: the same one for every test, so it is made once."""

    def __init__(self) -> None:
        self._operations: list[tuple[str, re.Pattern[str], dict[str, Any]]] = []

    def find_operation(self, app: FastAPI, method: str, path: str) -> dict[str, Any] | None:
        if not self._operations:
            for where, operation in list_operations(app.openapi()):
                own, _, template = where.partition(" ")
                pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", template))
                self._operations.append((own, pattern, operation))
        for own, pattern, operation in self._operations:
            if own == method and pattern.fullmatch(path):
                return operation
        return None


@cache
def _documents() -> _Documents:
    return _Documents()


def check_documented(app: FastAPI, response: httpx.Response) -> None:
    """Fail on a status that its operation's document does not have."""
    request = response.request
    path = request.url.path.removeprefix("/api")
    operation = _documents().find_operation(app, request.method, path)
    if operation is not None and response.status_code != 405:
        assert str(response.status_code) in operation["responses"], (
            f"{operation['operationId']} answers {response.status_code}, which is not documented: "
            "foundry/control/reference/notes.py"
        )


def check_error(response: httpx.Response) -> None:
    """Fail on an error whose body is not the documented one."""
    if response.status_code >= 400:
        ErrorBody.model_validate(response.json())
