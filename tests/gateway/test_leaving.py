"""Clients that leave and gateways that stop: what a request holds is free at once, and is named."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from foundry.gateway.ports import End
from foundry.infra.http.admission import Admission, Admittee
from foundry.infra.http.scopes import Stage
from foundry.infra.wire.frames import Usage
from tests.fakes.admission import Steps
from tests.fakes.engine import FakeEngine
from tests.gateway.conftest import CHAT, STREAM, Stand, placed, recorded

# A frozen engine: it never says anything, or nothing more after its first word.
FROZEN = 3600.0


class Caller:
    """A client that has a connection of its own, and can hang up."""

    def __init__(self, stand: Stand, body: dict[str, Any], key: str = "Bearer good") -> None:
        self.answered = asyncio.Event()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.send({"type": "http.request", "body": json.dumps(body).encode()})
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/chat/completions",
            "query_string": b"",
            "headers": [(b"authorization", key.encode())],
        }
        self.request = asyncio.create_task(stand.app(scope, self._inbox.get, self._receive))

    def send(self, message: dict[str, Any]) -> None:
        self._inbox.put_nowait(message)

    def hang_up(self) -> None:
        self.send({"type": "http.disconnect"})

    async def _receive(self, message: Any) -> None:
        if message.get("body"):
            self.answered.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class Waiting:
    """A reservation that waits: the request holds what came before it."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.asked = asyncio.Event()

    def admission(self) -> Admission:
        return Admission(self.steps, self.steps, self)

    @asynccontextmanager
    async def reserve_tokens(self, request: Admittee) -> AsyncIterator[None]:
        self.asked.set()
        await asyncio.Event().wait()
        yield


def waits_in(stage: Stage, make_stand: Callable[..., Stand]) -> tuple[Stand, Caller]:
    """A gateway with room for one request, and that request, which will wait in `stage`."""
    admission = Waiting().admission() if stage is Stage.ADMISSION else None
    stand = make_stand(FakeEngine(first_s=FROZEN), admission, max_in_flight=1)
    key = "Bearer slow" if stage is Stage.AUTHENTICATION else "Bearer good"
    body = CHAT | {"model": "slow"} if stage is Stage.RESOLUTION else CHAT
    return stand, Caller(stand, body, key)


WAITS = [Stage.AUTHENTICATION, Stage.RESOLUTION, Stage.ADMISSION, Stage.DISPATCH]


@pytest.mark.parametrize("stage", WAITS)
async def test_a_client_that_leaves_frees_its_place_wherever_it_waits(
    make_stand: Callable[..., Stand], stage: Stage
) -> None:
    stand, caller = waits_in(stage, make_stand)
    async with asyncio.timeout(30):
        await until(lambda: stand.authenticator.asked == 1)
        assert await full(stand) is True
        stand.meter.settled.clear()
        await until(lambda: stage is not Stage.DISPATCH or bool(stand.engine.calls))
        caller.hang_up()
        await caller.request
    assert recorded(stand) == (End.CLIENT_LEFT, None, None)
    assert placed(stand) == (stage, None, "chat")
    assert await full(stand) is False


async def full(stand: Stand) -> bool:
    async with stand.client() as client:
        return (await client.get("/models")).status_code == 503


@pytest.mark.parametrize("stage", WAITS)
@pytest.mark.parametrize(("hung_up", "end"), [(False, End.SHUT_DOWN), (True, End.CLIENT_LEFT)])
async def test_a_cancelled_request_is_named_for_who_gave_up(
    make_stand: Callable[..., Stand], stage: Stage, hung_up: bool, end: End
) -> None:
    """Servers cancel requests when they shut down, and some also when the client leaves."""
    stand, caller = waits_in(stage, make_stand)
    await until(lambda: stand.authenticator.asked == 1)
    await until(lambda: stage is not Stage.DISPATCH or bool(stand.engine.calls))
    if hung_up:
        caller.hang_up()
    caller.request.cancel()
    await asyncio.wait({caller.request}, timeout=30)
    assert caller.request.cancelled()
    assert recorded(stand) == (end, None, None)
    assert placed(stand)[:2] == (stage, None)


async def test_a_stream_that_a_shutdown_cuts(make_stand: Callable[..., Stand]) -> None:
    stand = make_stand(FakeEngine(gap_s=FROZEN))
    caller = Caller(stand, STREAM)
    async with asyncio.timeout(30):
        await caller.answered.wait()
    caller.request.cancel()
    await asyncio.wait({caller.request}, timeout=30)
    assert recorded(stand) == (End.SHUT_DOWN, None, Usage(5, 1))


async def test_a_client_that_leaves_while_it_sends_its_body(stand: Stand) -> None:
    caller = Caller(stand, CHAT)
    caller._inbox.get_nowait()
    caller.send({"type": "http.request", "body": b'{"model":', "more_body": True})
    caller.hang_up()
    async with asyncio.timeout(30):
        await caller.request
    assert recorded(stand) == (End.CLIENT_LEFT, None, None)
    assert placed(stand) == (Stage.BODY, None, "chat")


async def test_a_connection_that_breaks_while_the_stream_is_sent(
    make_stand: Callable[..., Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Caller):
        async def _receive(self, message: Any) -> None:
            raise OSError("the connection is closed")

    stand, calls = make_stand(FakeEngine(gap_s=FROZEN)), []
    stream = stand.upstream.stream

    def keep_call(*arguments: Any) -> Any:
        # Held here, so that the engine is told by the gateway and not by the garbage collector.
        calls.append(stream(*arguments))
        return calls[-1]

    monkeypatch.setattr(stand.upstream, "stream", keep_call)
    async with asyncio.timeout(30):
        await Broken(stand, STREAM).request
    assert recorded(stand) == (End.CLIENT_LEFT, None, None)
    assert len(stand.engine.cancelled) == len(calls) == 1


@pytest.mark.parametrize(
    ("engine", "body", "once_sent", "usage"),
    [
        (FakeEngine(first_s=FROZEN), CHAT, False, None),
        (FakeEngine(first_s=FROZEN), STREAM, False, None),
        (FakeEngine(gap_s=FROZEN), STREAM, True, Usage(5, 1)),
    ],
)
async def test_client_left(
    make_stand: Callable[..., Stand],
    engine: FakeEngine,
    body: dict[str, Any],
    once_sent: bool,
    usage: Usage | None,
) -> None:
    stand = make_stand(engine)
    caller = Caller(stand, body)
    async with asyncio.timeout(30):
        if once_sent:
            await caller.answered.wait()
        await until(lambda: bool(stand.engine.calls))
        caller.hang_up()
        await caller.request
    assert recorded(stand) == (End.CLIENT_LEFT, None, usage)
