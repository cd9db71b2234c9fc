"""Bodies: how large they may grow, and how slowly a file may arrive."""

import asyncio
from typing import Any

import pytest
from starlette.middleware import Middleware

from foundry.infra.http.sizes import UPLOAD_GRACE_S, Pace, SizeLimit
from tests.infra.http.application import Connection, Staged


def size_limit(staged: Staged) -> tuple[int, Any]:
    """Where it is among the application's stages, and its options."""
    names = [getattr(stage.cls, "__name__", "") for stage in staged.app.user_middleware]
    index = names.index(SizeLimit.__name__)
    return index, staged.app.user_middleware[index].kwargs


def slow_uploads(pace: Pace) -> Staged:
    """The application, but its uploads keep `pace`."""
    staged = Staged()
    index, options = size_limit(staged)
    staged.app.user_middleware[index] = Middleware(SizeLimit, **options | {"upload_pace": pace})
    return staged


def test_the_time_that_a_body_has() -> None:
    pace = Pace(1000, grace_s=30)
    assert pace.remaining_s(0, 0) == 30
    assert pace.remaining_s(60_000, 0) == 90
    assert pace.remaining_s(60_000, 80) == 10
    # Fast at first, then nothing: what it saved is used up at the floor's rate.
    assert pace.remaining_s(60_000, 91) < 0


def test_the_default_is_a_slow_line() -> None:
    _, options = size_limit(Staged())
    assert options["upload_pace"] == Pace(32 * 1024, UPLOAD_GRACE_S)


async def test_an_upload_that_stalls_is_refused() -> None:
    connection = Connection(slow_uploads(Pace(1e9, grace_s=0.05)).app, "/files/x")
    connection.write(b"x" * 10, more=True)
    await asyncio.wait_for(connection.request, 30)
    assert connection.status == 408
    assert connection.error["code"] == "body_too_slow"
    assert connection.error["message"] == (
        "the upload is too slow: 10 bytes came, and it may not fall below 1000000000 bytes a "
        "second for more than 0.05 seconds in all; use a faster line, or ask your operator to "
        "lower FOUNDRY_HTTP__MIN_UPLOAD_BYTES_S"
    )


async def test_an_upload_that_is_trickled_is_refused_although_it_never_stops() -> None:
    staged = slow_uploads(Pace(1e9, grace_s=0.2))
    connection = Connection(staged.app, "/files/x")
    async with asyncio.timeout(30):
        while not connection.request.done():
            connection.write(b"x", more=True)
            await asyncio.sleep(0.01)
    assert connection.status == 408
    (end,) = staged.recorded.ends
    assert (end.stage, end.status) == ("size", 408)


async def test_time_that_the_server_takes_is_not_the_clients() -> None:
    staged = slow_uploads(Pace(1e9, grace_s=0.2))

    async def work() -> None:
        await asyncio.sleep(0.5)

    staged.authenticator.before = work
    connection = Connection(staged.app, "/files/x")
    connection.write(b"x" * 10, more=False)
    await asyncio.wait_for(connection.request, 30)
    assert connection.status == 200


@pytest.mark.parametrize("path", ["/files/x", "/echo"])
async def test_what_arrives_in_time_is_taken(path: str) -> None:
    connection = Connection(slow_uploads(Pace(1, grace_s=30)).app, path)
    connection.write(b"x" * 10, more=True)
    connection.write(b"x" * 10, more=False)
    await asyncio.wait_for(connection.request, 30)
    assert connection.sent[-1]["body"] == b'{"bytes":20}'
