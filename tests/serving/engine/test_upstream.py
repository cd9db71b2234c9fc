"""Calls through a handle: what Ray raises becomes ours, and leaving cancels."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray import serve
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from foundry.errors import EngineFailed, FoundryError, NoHealthyUpstream, Overloaded
from foundry.infra.wire.frames import CallContext, Frame, Kind, encode_frames
from foundry.serving.engine.upstream import MAX_HANDLES, HandleUpstream

CONTEXT = CallContext("r1", "m", 5)
DATA = Frame(Kind.DATA, b"x")


@dataclass
class Handle:
    """As much of a Serve handle as the upstream uses."""

    messages: list[bytes | Exception]
    wait_s: float = 0.0
    cancelled: int = 0
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def stream(self) -> "Handle":
        return self

    def options(self, *, stream: bool) -> "Handle":
        assert stream
        return self

    def remote(self, *call: Any) -> "Handle":
        self.calls.append(call)
        self._answers = self._run()
        return self

    async def _run(self) -> AsyncIterator[bytes]:
        await asyncio.sleep(self.wait_s)
        for message in self.messages:
            if isinstance(message, Exception):
                raise message
            yield message

    def __aiter__(self) -> "Handle":
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._answers)

    def cancel(self) -> None:
        self.cancelled += 1


def upstream(monkeypatch: pytest.MonkeyPatch, handle: Handle, **options: float) -> HandleUpstream:
    monkeypatch.setattr(serve, "get_deployment_handle", lambda name, app_name: handle)
    return HandleUpstream("llm", **options)


async def test_frames_of_all_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle([b"", encode_frames([DATA, DATA]), encode_frames([DATA])])
    frames = upstream(monkeypatch, handle).stream("app", "chat", b"{}", CONTEXT)
    assert [frame async for frame in frames] == [DATA, DATA, DATA]
    assert handle.calls == [("chat", b"{}", CONTEXT)]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (BackPressureError(1, 1), Overloaded),
        (ActorDiedError(), EngineFailed),
        (RayTaskError("f", "trace", EngineFailed("the engine died")), EngineFailed),
        (RayTaskError("f", "trace", Overloaded("full")), Overloaded),
        (RayTaskError("f", "trace", ValueError("bug")), EngineFailed),
    ],
)
async def test_what_ray_raises(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[FoundryError]
) -> None:
    handle = Handle([b"", raised])
    with pytest.raises(expected):
        async for _ in upstream(monkeypatch, handle).stream("app", "chat", b"", CONTEXT):
            pass


@pytest.mark.parametrize("raised", [ActorDiedError(), RayTaskError("f", "t", ValueError("bug"))])
async def test_a_call_that_nobody_had_taken_may_go_elsewhere(
    monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    frames = upstream(monkeypatch, Handle([raised])).stream("app", "chat", b"", CONTEXT)
    with pytest.raises(NoHealthyUpstream):
        await anext(aiter(frames))


@pytest.mark.parametrize(
    "raised",
    [
        KeyError("llm does not exist"),
        RuntimeError("404: no such application"),
        TimeoutError("the controller"),
        ActorDiedError(),
        RayServeException("there is no instance running"),
    ],
)
async def test_an_application_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def fail(name: str, app_name: str) -> Handle:
        raise raised

    monkeypatch.setattr(serve, "get_deployment_handle", fail)
    way = HandleUpstream("llm")
    for _ in range(2):
        with pytest.raises(NoHealthyUpstream, match="no replica of app takes requests"):
            await anext(aiter(way.stream("app", "chat", b"", CONTEXT)))


async def test_opening_blocks_neither_the_loop_nor_a_second_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Serve's controller hangs: calls are refused in time, and the handle is found later."""
    answer, asked = threading.Event(), 0

    def hang(name: str, app_name: str) -> Handle:
        nonlocal asked
        asked += 1
        assert answer.wait(30)
        return Handle([b"", encode_frames([DATA])])

    monkeypatch.setattr(serve, "get_deployment_handle", hang)
    way = HandleUpstream("llm", open_timeout_s=0.05)

    async def call() -> list[Frame]:
        return [frame async for frame in way.stream("app", "chat", b"", CONTEXT)]

    refused = await asyncio.gather(*(call() for _ in range(10)), return_exceptions=True)
    assert {type(error) for error in refused} == {NoHealthyUpstream}
    answer.set()
    way._open_timeout_s = 30
    assert await call() == [DATA]
    assert asked == 1


async def test_nobody_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle([b""], wait_s=30)
    way = upstream(monkeypatch, handle, accept_timeout_s=0.02)
    with pytest.raises(NoHealthyUpstream):
        await anext(aiter(way.stream("app", "chat", b"", CONTEXT)))
    assert handle.cancelled == 1


async def test_leaving_cancels_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle([b"", encode_frames([DATA]), encode_frames([DATA])])
    frames: Any = upstream(monkeypatch, handle).stream("app", "chat", b"", CONTEXT)
    await anext(frames)
    await frames.aclose()
    assert handle.cancelled == 1


async def test_handles_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(name: str, app_name: str) -> Handle:
        made.append(app_name)
        return Handle([b""])

    monkeypatch.setattr(serve, "get_deployment_handle", make)
    way = HandleUpstream("llm")
    for number in [*range(MAX_HANDLES + 1), MAX_HANDLES, 0]:
        async for _ in way.stream(f"app-{number}", "chat", b"", CONTEXT):
            pass
    assert len(made) == MAX_HANDLES + 2
    assert made[-1] == "app-0"
