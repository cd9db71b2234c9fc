"""A request ends when its client leaves, and its messages arrive in order and unharmed."""

import asyncio

import pytest

from foundry.infra.http.presence import Client
from foundry.infra.http.scopes import Stage
from tests.infra.http.application import Connection, Staged


async def test_the_messages_of_a_body_arrive_in_order() -> None:
    staged = Staged()
    connection = Connection(staged.app, "/echo")
    for number in range(5):
        connection.write(b"x" * number, more=number < 4)
    await asyncio.wait_for(connection.request, 30)
    assert connection.status == 200
    assert connection.sent[-1]["body"] == b'{"bytes":10}'


async def test_little_is_read_ahead_of_an_application_that_does_not_read() -> None:
    staged = Staged()
    staged.authenticator.before = asyncio.Event().wait
    connection = Connection(staged.app, "/echo")
    for _ in range(10):
        connection.write(b"x", more=True)
    while not staged.authenticator.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert connection.inbox.qsize() == 8
    connection.request.cancel()
    await asyncio.wait({connection.request})


async def test_a_client_that_leaves_ends_its_request() -> None:
    staged = Staged()
    staged.authenticator.before = asyncio.Event().wait
    connection = Connection(staged.app, "/echo")
    connection.write(b"x", more=False)
    connection.hang_up()
    await asyncio.wait_for(connection.request, 30)
    assert connection.sent == []
    (end,) = staged.recorded.ends
    assert (end.client_left, end.stage, end.status) == (True, Stage.AUTHENTICATION, None)


@pytest.mark.parametrize(("unread", "left"), [(0, True), (5, True), (5, False)])
async def test_a_cancellation_by_the_server_tells_whether_the_client_left(
    unread: int, left: bool
) -> None:
    """Also when the client's last words lie behind a body that nobody has read."""
    staged = Staged()
    staged.authenticator.before = asyncio.Event().wait
    connection = Connection(staged.app, "/echo")
    for _ in range(unread):
        connection.write(b"x", more=True)
    while not staged.authenticator.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    if left:
        connection.hang_up()
    connection.request.cancel()
    await asyncio.wait({connection.request}, timeout=30)
    assert connection.request.cancelled()
    (end,) = staged.recorded.ends
    assert end.client_left is left
    assert isinstance(end.error, asyncio.CancelledError)


async def test_an_error_of_the_server_reaches_who_reads() -> None:
    async def receive() -> dict[str, object]:
        raise RuntimeError("the connection's task is gone")

    request: asyncio.Task[None] = asyncio.create_task(asyncio.sleep(0))
    client = Client(receive)
    client.watch(request)
    with pytest.raises(RuntimeError, match="the connection's task is gone"):
        await client.receive()
    await client.close()
    await request


async def test_a_complete_answer_is_not_a_client_that_left() -> None:
    """Servers say `disconnect` after a complete answer too, for who goes on receiving."""
    staged = Staged()
    connection = Connection(staged.app, "/echo")
    connection.write(b"x", more=False)
    await asyncio.wait_for(connection.request, 30)
    connection.hang_up()
    await asyncio.sleep(0)
    (end,) = staged.recorded.ends
    assert (end.client_left, end.status) == (False, 200)
