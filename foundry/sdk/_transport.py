"""How one operation becomes a request and an answer becomes a value, for both clients.

An operation is written once, as the function that builds its `Call`. Reached through a resource
of `Foundry` it sends and returns the value; through one of `AsyncFoundry`, an awaitable of it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from foundry import __version__
from foundry.errors import FoundryError, InvalidRequest, NotFound, SetupError, Unauthenticated
from foundry.sdk._connection import Connection
from foundry.sdk._errors import from_response, from_transport, from_validation
from foundry.sdk.paging import Page, PendingPage
from foundry.validation import describe_os_error, find_problem

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
S_co = TypeVar("S_co", bound="SyncSender | AsyncSender", covariant=True)

Query = Mapping[str, str | int | float | bool | None]

_RETRY_PAUSES_S = (0.1, 0.4)
_CONNECT_TIMEOUT_S = 5.0
# The server reads and checks a whole upload before it answers.
_SLOW_TIMEOUT_S = 900.0
_CHUNK_BYTES = 2**20
_LOST = (httpx.ConnectError, httpx.ConnectTimeout)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and the type of its answer.

    Attributes:
        returns: what the body is parsed as; `NoneType`: there is none.
        body: a model is sent as JSON, bytes and files as they are.
        slow: the answer may take far longer than usual.
        plane: where the application is that answers: `/api` or `/v1`.
        on_sent: told how many bytes of a file have left, now and then.
        choose: takes what the body holds to the value that is meant; None: the body is the value.
    """

    method: str
    path: str
    returns: type[T]
    query: Query = field(default_factory=dict)
    body: BaseModel | bytes | Path | None = None
    slow: bool = False
    plane: str = "/api"
    on_sent: Callable[[int], None] | None = None
    choose: Callable[[Any], Any] | None = None

    def choosing(self, choose: Callable[[T], U]) -> "Call[U]":
        """The same request for one value out of its answer."""
        return cast("Call[U]", replace(self, choose=choose))

    def at(self, cursor: str) -> "Call[T]":
        """The same list from the page on that `cursor` names."""
        return replace(self, query={**self.query, "cursor": cursor})


def path(*parts: object) -> str:
    """A path of literal segments.

    Raises:
        InvalidRequest: a segment would change which route is meant.
    """
    texts = [str(part) for part in parts]
    if any(text in ("", ".", "..") for text in texts):
        raise InvalidRequest("a name is empty, or consists of dots only")
    return "/" + "/".join(quote(text, safe="@") for text in texts)


def parse(call: Call[T], response: httpx.Response) -> T:
    """The value in a successful answer."""
    if call.returns is type(None):
        return None
    try:
        return TypeAdapter(call.returns).validate_json(response.content)
    except ValidationError as error:
        problem = find_problem(error.errors())
        raise FoundryError(
            f"{response.url.copy_with(query=None)} answered something this client does not "
            f"understand ({problem.tell(problem.where or 'the body')}): "
            f"is it a Foundry {__version__}?"
        ) from error


class _Sender:
    """What both senders share: where requests go, and how they look."""

    def __init__(self, to: Connection) -> None:
        self.url = to.url.rstrip("/")
        self._connection = to
        timeout_s = to.timeout_s
        self._timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s))
        self._slow = httpx.Timeout(
            max(timeout_s, _SLOW_TIMEOUT_S), connect=min(_CONNECT_TIMEOUT_S, timeout_s)
        )
        self._headers = {"user-agent": f"foundry-sdk/{__version__}"}
        if to.api_key:
            if not (to.api_key.isascii() and to.api_key.isprintable()):
                raise Unauthenticated("the API key holds characters that no key has")
            self._headers["authorization"] = f"Bearer {to.api_key}"

    def _options(self, call: Call[Any]) -> dict[str, Any]:
        options: dict[str, Any] = {
            "method": call.method,
            "url": f"{self.url}{call.plane}{call.path}",
            "params": {name: value for name, value in call.query.items() if value is not None},
            "headers": dict(self._headers),
            "timeout": self._slow if call.slow else self._timeout,
        }
        if isinstance(call.body, BaseModel):
            options["content"] = call.body.model_dump_json().encode()
            options["headers"]["content-type"] = "application/json"
        elif call.body is not None:
            options["content"] = call.body
            options["headers"]["content-type"] = "application/octet-stream"
        return options

    def _stream_options(self, route: str, document: object) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": f"{self.url}{route}",
            "json": document,
            "headers": self._headers,
            "timeout": self._slow,
        }

    def _parse(self, call: Call[T], response: httpx.Response) -> T:
        if not response.is_success:
            raise from_response(response, self._connection)
        value = parse(call, response)
        return value if call.choose is None else cast(T, call.choose(value))

    def _list_pauses(self, call: Call[Any]) -> list[float | None]:
        """Before each further attempt; None: the last, whose failure counts."""
        return [*_RETRY_PAUSES_S, None] if call.method == "GET" else [None]


class SyncSender(_Sender):
    def __init__(self, to: Connection, transport: httpx.BaseTransport | None) -> None:
        super().__init__(to)
        with _explain_environment():
            self._client = httpx.Client(transport=transport)

    def send(self, call: Call[T]) -> T:
        options = self._options(call)
        for pause_s in self._list_pauses(call):
            try:
                with _sync_body(call) as content:
                    replaced = {} if content is None else {"content": content}
                    value = self._parse(call, self._client.request(**options | replaced))
                if isinstance(value, Page):
                    value.continue_with(lambda cursor: self.send(call.at(cursor)), is_async=False)
                return value
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if pause_s is None or not isinstance(error, _LOST):
                    raise from_transport(error, self.url) from error
                time.sleep(pause_s)
        raise AssertionError("unreachable")

    @contextmanager
    def lines(self, route: str, document: object) -> Iterator[Iterator[str]]:
        """The lines of a streamed answer."""
        try:
            with self._client.stream(**self._stream_options(route, document)) as response:
                if not response.is_success:
                    response.read()
                    raise from_response(response, self._connection)
                yield response.iter_lines()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise from_transport(error, self.url) from error

    def close(self) -> None:
        self._client.close()


class AsyncSender(_Sender):
    def __init__(self, to: Connection, transport: httpx.AsyncBaseTransport | None) -> None:
        super().__init__(to)
        with _explain_environment():
            self._client = httpx.AsyncClient(transport=transport)

    async def send(self, call: Call[T]) -> T:
        options = self._options(call)
        if isinstance(call.body, Path):
            options["content"] = _read_chunks(call.body, call.on_sent)
        for pause_s in self._list_pauses(call):
            try:
                value = self._parse(call, await self._client.request(**options))
                if isinstance(value, Page):
                    value.continue_with(lambda cursor: self.send(call.at(cursor)), is_async=True)
                return value
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                if pause_s is None or not isinstance(error, _LOST):
                    raise from_transport(error, self.url) from error
                await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def lines(self, route: str, document: object) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of a streamed answer."""
        try:
            async with self._client.stream(**self._stream_options(route, document)) as response:
                if not response.is_success:
                    await response.aread()
                    raise from_response(response, self._connection)
                yield response.aiter_lines()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise from_transport(error, self.url) from error

    async def close(self) -> None:
        await self._client.aclose()


@contextmanager
def _explain_environment() -> Iterator[None]:
    """The network's settings of the environment: proxies and certificates."""
    try:
        yield
    except (ImportError, ValueError, OSError) as error:
        raise SetupError(
            "this environment's HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE cannot be "
            "used: a proxy is http://host:port, and a certificate file must exist; unset them, or "
            "name the server in NO_PROXY"
        ) from error


@contextmanager
def _sync_body(call: Call[Any]) -> Iterator[object]:
    """An open file for a body that is one; None: the body is no file."""
    if not isinstance(call.body, Path):
        yield None
        return
    with _open_file(call.body, call.on_sent) as reader:
        yield reader


class _CountingReader(BufferedReader):
    """Tells how much of a file was read; its length stays known, so it is sent in one piece."""

    def __init__(self, file: FileIO, on_read: Callable[[int], None] | None) -> None:
        super().__init__(file)
        self._on_read = on_read
        self._bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        self._bytes_read += len(chunk)
        if self._on_read is not None:
            self._on_read(self._bytes_read)
        return chunk


async def _read_chunks(file: Path, on_sent: Callable[[int], None] | None) -> AsyncIterator[bytes]:
    reader = await asyncio.to_thread(_open_file, file, on_sent)
    try:
        while chunk := await asyncio.to_thread(reader.read, _CHUNK_BYTES):
            yield chunk
    finally:
        reader.close()


def _open_file(file: Path, on_sent: Callable[[int], None] | None) -> BufferedReader:
    try:
        return _CountingReader(FileIO(file), on_sent)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}") from error
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {describe_os_error(error)}") from error


class Resource(Generic[S_co]):
    """A group of operations that belongs to one client."""

    def __init__(self, sender: S_co) -> None:
        self.sender = sender


class Operation(Generic[P, T]):
    """A method of a resource, whose class decides between waiting and awaiting."""

    def __init__(self, operation_id: str, build: Callable[Concatenate[Any, P], Call[T]]) -> None:
        self.operation_id = operation_id
        self.build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> "Operation[P, T]": ...

    @overload
    def __get__(self, instance: Resource[SyncSender], owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(
        self, instance: Resource[AsyncSender], owner: type
    ) -> Callable[P, Awaitable[T]]: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self

        @wraps(self.build)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance.sender.send(self._build_call(instance, *args, **kwargs))

        return call

    def _build_call(self, instance: Any, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        try:
            return self.build(instance, *args, **kwargs)
        except ValidationError as error:
            raise from_validation(error) from error


class PageOperation(Operation[P, T]):
    """An operation whose answer is a page, over whose items an asyncio caller can iterate."""

    @overload
    def __get__(self, instance: None, owner: type) -> "PageOperation[P, T]": ...

    @overload
    def __get__(self, instance: Resource[SyncSender], owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(
        self, instance: Resource[AsyncSender], owner: type
    ) -> Callable[P, PendingPage[T]]: ...

    def __get__(self, instance: Any, owner: type) -> Any:
        send = super().__get__(instance, owner)
        if instance is None or isinstance(instance.sender, SyncSender):
            return send

        @wraps(self.build)
        def call(*args: P.args, **kwargs: P.kwargs) -> PendingPage[T]:
            return PendingPage(lambda: send(*args, **kwargs))

        return call


def pages(
    operation_id: str,
) -> Callable[[Callable[Concatenate[Any, P], Call[T]]], PageOperation[P, T]]:
    """Mark the builder of an operation whose list comes in pages; see `operation`."""

    def mark(build: Callable[Concatenate[Any, P], Call[T]]) -> PageOperation[P, T]:
        return PageOperation(operation_id, build)

    return mark


def operation(
    operation_id: str,
) -> Callable[[Callable[Concatenate[Any, P], Call[T]]], Operation[P, T]]:
    """Marks the builder of the control plane's operation of that id."""

    def mark(build: Callable[Concatenate[Any, P], Call[T]]) -> Operation[P, T]:
        return Operation(operation_id, build)

    return mark
