"""The unmodified `openai` client over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator

import openai
import pytest
import uvicorn
from openai.types.chat import ChatCompletionMessageParam

from foundry.errors import ContextLengthExceeded
from tests.gateway.conftest import Stand

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def url(stand: Stand) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(stand.app, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving


@pytest.fixture
async def sdk(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key="good", max_retries=0) as sdk:
        yield sdk


async def test_chat(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(
        model="support-bot@production", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.model == "support-bot@production"
    assert answer.choices[0].message.content == "Hello world!"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 8


async def test_stream(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "Hello world!"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_models(sdk: openai.AsyncOpenAI) -> None:
    assert [m.id async for m in sdk.models.list()] == ["smollm2", "org/support-bot@production"]
    assert (await sdk.models.retrieve("org/support-bot@production")).created == 1_700_000_001


async def test_errors_become_the_clients_classes(stand: Stand, sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await sdk.chat.completions.create(model="nope", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        await sdk.with_options(api_key="wrong").models.list()
    stand.engine.refusal = ContextLengthExceeded("too long")
    with pytest.raises(openai.BadRequestError) as long:
        await sdk.chat.completions.create(model="smollm2", messages=HI, stream=True)
    assert long.value.code == "context_length_exceeded"


async def test_a_cut_stream_raises(stand: Stand, sdk: openai.AsyncOpenAI) -> None:
    stand.engine.dies_after = 1
    stream = await sdk.chat.completions.create(model="smollm2", messages=HI, stream=True)
    with pytest.raises(openai.APIError) as cut:
        async for _ in stream:
            pass
    assert cut.value.code == "stream_interrupted"


async def test_leaving_cancels_the_engine(stand: Stand, sdk: openai.AsyncOpenAI) -> None:
    stand.engine.gap_s = 30
    stream = await sdk.chat.completions.create(model="smollm2", messages=HI, stream=True)
    await anext(aiter(stream))
    await stream.close()
    async with asyncio.timeout(1):
        while not stand.meter.settled:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert len(stand.engine.cancelled) == 1
    assert stand.meter.settled[0].end == "client_left"
