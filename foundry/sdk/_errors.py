"""From an answer or a broken connection to the error tree."""

import socket
import ssl
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
from foundry.sdk._connection import KEY_VARIABLE, TIMEOUT_VARIABLE, URL_VARIABLE, Connection
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


def _list_classes(root: type[FoundryError]) -> Iterator[type[FoundryError]]:
    yield root
    for child in root.__subclasses__():
        yield from _list_classes(child)


BY_CODE: Mapping[str, type[FoundryError]] = {
    kind.code: kind for kind in _list_classes(FoundryError) if kind.__module__ == errors.__name__
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


def from_response(response: httpx.Response, to: Connection) -> FoundryError:
    """The error of an answer, which must have been read."""
    status = response.status_code
    try:
        document = response.json()
    except ValueError:
        document = None
    if (error := from_body(document, status)) is not None:
        if request_id := response.headers.get("x-request-id"):
            error.details["request_id"] = request_id
        return explain_refused_key(error, to) if isinstance(error, Unauthenticated) else error
    excerpt = " ".join(response.text[:_EXCERPT_CHARS].split())
    kind = _BY_STATUS.get(status, FoundryError)
    return kind(
        f"{response.url.copy_with(query=None)} answered {status} in words that are not Foundry's"
        + (f": {excerpt}" if excerpt else ""),
        status=status,
    )


def explain_refused_key(error: Unauthenticated, to: Connection) -> Unauthenticated:
    """The server's refusal, with what this client knows of the key that it sent."""
    if to.api_key is None and to.empty_home is not None:
        return Unauthenticated(
            f"{to.empty_home} has no stack, and {to.url} is another's: `foundry up` starts one, "
            f"FOUNDRY_HOME names another home, {KEY_VARIABLE} is a key of that server",
            **error.details,
        )
    if to.api_key is None:
        return Unauthenticated(
            f"no API key was sent to {to.url}: set {KEY_VARIABLE}; an administrator of that "
            "server makes a key with `foundry keys create`",
            **error.details,
        )
    return Unauthenticated(
        f"{error.message} (the key that was sent is that of {to.key_origin})", **error.details
    )


def from_transport(error: httpx.HTTPError | httpx.InvalidURL, url: str) -> FoundryError:
    """A request that got no answer: what failed, at which address, and what to do."""
    if isinstance(error, httpx.ProxyError):
        return Unavailable(
            f"the proxy on the way to {url} refuses: check HTTP_PROXY and HTTPS_PROXY, or name "
            "the server in NO_PROXY"
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return _from_failed_connect(error, url)
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(
            f"{url} did not answer in time; it may still be at work. {TIMEOUT_VARIABLE} allows more"
        )
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return SetupError(
            f"{url!r} is not an address of Foundry: http://host:port is; {URL_VARIABLE} sets it"
        )
    return Unavailable(
        f"{url} broke the connection off before its answer was complete; what was asked may have "
        "been done. `foundry status` says whether it runs"
    )


def _from_failed_connect(error: httpx.HTTPError, url: str) -> FoundryError:
    causes = list(_list_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return SetupError(
            f"the certificate of {url} is not trusted here: set SSL_CERT_FILE to the file of the "
            f"authority that issued it, or correct the name in {URL_VARIABLE}"
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return SetupError(
            f"{url} does not speak TLS as this client does: check whether {URL_VARIABLE} must "
            "begin with http:// instead of https://"
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return Unavailable(
            f"the name in {url} is not known to this machine: check {URL_VARIABLE} and the network"
        )
    return Unavailable(
        f"nothing answers at {url}; start it with `foundry up`, or set {URL_VARIABLE}"
    )


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def from_validation(error: ValidationError, sent: object = UNKNOWN) -> InvalidRequest:
    """What is wrong with an argument, before anything was sent.

    Args:
        sent: what was validated, where it is at hand.
    """
    where, text = describe_problem(error.errors(), sent)
    return InvalidRequest(text, param=where or None)
