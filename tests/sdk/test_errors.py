"""What the client says when nothing answers, or nobody lets it in: our words, and what to do."""

import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest

from foundry.config import ClientSettings, Settings
from foundry.errors import (
    DeadlineExceeded,
    FoundryError,
    InvalidRequest,
    SetupError,
    Unauthenticated,
    Unavailable,
)
from foundry.sdk import Foundry
from tests.sdk.answers import client, failure

# Names of libraries, and phrases that only they use.
LIBRARY_WORDS = re.compile(
    r"pydantic|httpx|httpcore|h11|starlette|fastapi|sqlalchemy|asyncpg|boto|urllib|errno|\[SSL|"
    r"Field required|Input should|Server disconnected|peer closed|Errno|Connect\w*Error|Traceback",
    re.IGNORECASE,
)


def refuse(error: Exception) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    return httpx.MockTransport(answer)


def caused_by(cause: Exception) -> httpx.ConnectError:
    error = httpx.ConnectError(str(cause))
    error.__cause__ = cause
    return error


BROKEN = [
    (httpx.ConnectError("[Errno 111] Connection refused"), Unavailable, "foundry up"),
    (httpx.ConnectTimeout("timed out"), Unavailable, "foundry up"),
    (caused_by(socket.gaierror(-2, "Name or service not known")), Unavailable, "name in https"),
    (caused_by(ssl.SSLCertVerificationError("self-signed")), SetupError, "SSL_CERT_FILE"),
    (caused_by(ssl.SSLError("[SSL] record layer failure")), SetupError, "http:// instead"),
    (httpx.ReadTimeout("The read operation timed out"), DeadlineExceeded, "CLIENT__TIMEOUT_S"),
    (httpx.WriteTimeout(""), DeadlineExceeded, "CLIENT__TIMEOUT_S"),
    (httpx.PoolTimeout(""), DeadlineExceeded, "CLIENT__TIMEOUT_S"),
    (httpx.ReadError("[Errno 104] peer"), Unavailable, "broke the connection off"),
    (
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
        Unavailable,
        "broke the connection off",
    ),
    (httpx.LocalProtocolError("Illegal header value"), Unavailable, "broke the connection off"),
    (httpx.ProxyError("403 Forbidden"), Unavailable, "NO_PROXY"),
    (httpx.DecodingError("zlib"), Unavailable, "broke the connection off"),
    (httpx.UnsupportedProtocol("missing"), SetupError, "http://host:port"),
    (httpx.InvalidURL("Invalid port"), SetupError, "http://host:port"),
    (httpx.TooManyRedirects("x"), Unavailable, "broke the connection off"),
]


@pytest.mark.parametrize(("error", "kind", "says"), BROKEN, ids=lambda value: str(value)[:30])
def test_a_broken_connection_in_our_words(
    error: Exception, kind: type[FoundryError], says: str, tmp_path: Path
) -> None:
    with Foundry(
        "https://foundry.test", "k", settings=Settings(home=tmp_path), transport=refuse(error)
    ) as foundry:
        for ask in (
            lambda: foundry.jobs.cancel("x"),
            lambda: list(foundry.chat.stream("bot", [])),
        ):
            with pytest.raises(kind) as raised:
                ask()
            assert type(raised.value) is kind
            assert says in raised.value.message
            assert "https://foundry.test" in raised.value.message
            assert not LIBRARY_WORDS.search(raised.value.message), raised.value.message


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Accepts a connection and hangs up at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = Thread(target=hang_up)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_real_socket_that_hangs_up(scheme: str, deaf_port: int, tmp_path: Path) -> None:
    url = f"{scheme}://127.0.0.1:{deaf_port}"
    with (
        Foundry(url, "k", settings=Settings(home=tmp_path)) as foundry,
        pytest.raises(FoundryError) as raised,
    ):
        foundry.jobs.cancel("x")
    assert url in raised.value.message
    assert not LIBRARY_WORDS.search(raised.value.message), raised.value.message


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://x:99999", "://"])
def test_an_address_that_is_none(url: str, tmp_path: Path) -> None:
    with (
        Foundry(url, "k", settings=Settings(home=tmp_path)) as foundry,
        pytest.raises(FoundryError) as raised,
    ):
        foundry.health()
    assert not LIBRARY_WORDS.search(raised.value.message), raised.value.message
    assert "FOUNDRY_CLIENT__URL" in raised.value.message


def test_a_request_without_a_key_says_so(tmp_path: Path) -> None:
    refusal = failure(401, "invalid_api_key", "the server's words")
    with Foundry(
        "http://foundry.test",
        settings=Settings(home=tmp_path),
        transport=httpx.MockTransport(lambda request: refusal),
    ) as foundry:
        for ask in (foundry.whoami, lambda: list(foundry.chat.stream("bot", []))):
            with pytest.raises(Unauthenticated) as raised:
                ask()
            assert raised.value.message == (
                "no API key was sent to http://foundry.test: set FOUNDRY_CLIENT__API_KEY; an "
                "administrator of that server makes a key with `foundry keys create`"
            )
            assert raised.value.details == {"status": 401, "request_id": "req-1"}


def test_a_home_without_a_stack_is_told_apart_from_a_server_without_a_key(tmp_path: Path) -> None:
    refusal = failure(401, "invalid_api_key", "the server's words")
    transport = httpx.MockTransport(lambda request: refusal)
    with (
        Foundry(settings=Settings(home=tmp_path), transport=transport) as foundry,
        pytest.raises(Unauthenticated) as raised,
    ):
        foundry.whoami()
    assert raised.value.message.startswith(
        f"{tmp_path} has no stack, and http://127.0.0.1:8000 is another's: `foundry up` starts one"
    )


@pytest.mark.parametrize("origin", ["argument", "setting", "file"])
def test_a_refused_key_says_whose_it_was(origin: str, tmp_path: Path) -> None:
    url = "http://127.0.0.1:8000"
    text = f'{{"url": "{url}", "api_key": "fk_live_secret"}}'
    (tmp_path / "credentials.json").write_text(text)
    own = ClientSettings.model_validate({"api_key": "fk_live_secret"})
    settings = Settings(home=tmp_path, client=own if origin == "setting" else ClientSettings())
    refusal = failure(401, "invalid_api_key", "the server's words")
    with (
        Foundry(
            url,
            "fk_live_secret" if origin == "argument" else None,
            settings=settings,
            transport=httpx.MockTransport(lambda request: refusal),
        ) as foundry,
        pytest.raises(Unauthenticated) as raised,
    ):
        foundry.whoami()
    named = {
        "argument": "the argument api_key",
        "setting": "FOUNDRY_CLIENT__API_KEY",
        "file": str(tmp_path / "credentials.json"),
    }[origin]
    assert raised.value.message == (
        f"the server's words (the key that was sent is that of {named})"
    )
    assert "secret" not in raised.value.message
    assert "secret" not in repr(foundry.sender._connection)


def test_a_proxy_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://x")
    with pytest.raises(SetupError, match=r"ALL_PROXY or SSL_CERT_FILE cannot be used"):
        Foundry("http://foundry.test", settings=Settings(home=tmp_path))


def test_a_timeout_is_longer_than_nothing(tmp_path: Path) -> None:
    for timeout_s in (0, -1, float("nan")):
        with pytest.raises(InvalidRequest, match="timeout_s must be greater than 0"):
            Foundry("http://x", timeout_s=timeout_s, settings=Settings(home=tmp_path))


def test_an_answer_that_is_not_understood_is_in_our_words(tmp_path: Path) -> None:
    bodies = [b"", b"<html>", b"null", b"[]", b'{"data": 1}', b'{"data": [{}], "next_cursor": 3}']
    answers = iter(bodies)
    with client(lambda _: httpx.Response(200, content=next(answers)), tmp_path) as foundry:
        for _ in bodies:
            with pytest.raises(FoundryError, match="this client does not understand") as raised:
                foundry.jobs.list()
            assert not LIBRARY_WORDS.search(raised.value.message), raised.value.message
