"""From an answer or a broken connection to the error tree."""

from collections.abc import Iterator, Mapping

import httpx
from pydantic import ValidationError

from foundry import errors
from foundry.errors import (
    DeadlineExceeded,
    FoundryError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SetupError,
    Unauthenticated,
    Unavailable,
)
from foundry.validation import UNKNOWN, describe_problem

# For answers that carry no error body of ours: a proxy in between, or another program.
_BY_STATUS: Mapping[int, type[FoundryError]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}
# FoundryError's own parameters cannot be passed as details.
_RESERVED = frozenset({"self", "message"})
_EXCERPT_CHARS = 200


def _tree(root: type[FoundryError]) -> Iterator[type[FoundryError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


BY_CODE: Mapping[str, type[FoundryError]] = {
    kind.code: kind for kind in _tree(FoundryError) if kind.__module__ == errors.__name__
}


def from_body(document: object, status: int | None = None) -> FoundryError | None:
    """The error an OpenAI-style body describes; None: it is no such body."""
    body = document.get("error") if isinstance(document, dict) else None
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        return None
    details = body.get("details")
    found = dict(details) if isinstance(details, dict) else {}
    if body.get("param") is not None:
        found["param"] = body["param"]
    if status is not None:
        found["status"] = status
    kind = BY_CODE.get(str(body.get("code"))) or _BY_STATUS.get(status or 0, FoundryError)
    return kind(body["message"], **{k: v for k, v in found.items() if k not in _RESERVED})


def from_response(response: httpx.Response) -> FoundryError:
    """The response must have been read."""
    status = response.status_code
    try:
        document = response.json()
    except ValueError:
        document = None
    if (error := from_body(document, status)) is not None:
        if request_id := response.headers.get("x-request-id"):
            error.details["request_id"] = request_id
        return error
    excerpt = " ".join(response.text[:_EXCERPT_CHARS].split())
    kind = _BY_STATUS.get(status, FoundryError)
    return kind(
        f"{response.url.copy_with(query=None)} answered {status} in words that are not Foundry's"
        + (f": {excerpt}" if excerpt else ""),
        status=status,
    )


def from_transport(error: httpx.HTTPError | httpx.InvalidURL, url: str) -> FoundryError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unavailable(
            f"nothing answers at {url}; start it with `foundry up`, or set FOUNDRY_CLIENT__URL"
        )
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(
            f"{url} did not answer in time; it may still be at work. "
            "FOUNDRY_CLIENT__TIMEOUT_S allows more"
        )
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return SetupError(f"{url!r} is not an address of Foundry: http://host:port is")
    return Unavailable(f"the connection to {url} broke: {error or type(error).__name__}")


def from_validation(error: ValidationError, sent: object = UNKNOWN) -> InvalidRequest:
    """What is wrong with an argument, before anything was sent.

    Args:
        sent: what was validated, where it is at hand.
    """
    where, text = describe_problem(error.errors(), sent)
    return InvalidRequest(text, param=where or None)
