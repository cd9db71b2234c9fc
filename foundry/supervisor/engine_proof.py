"""The test request that an engine answers before requests go to it."""

import asyncio

import orjson

from foundry.errors import EngineFailed, Unavailable
from foundry.infra.wire.frames import CallContext, Head, Kind, Tail
from foundry.serving.engine.upstream import HandleUpstream

# Of one of the two requests: four tokens on the slowest engine that is of use.
_TIMEOUT_S = 60.0


async def prove_answers(upstream: HandleUpstream, app_name: str, model: str) -> None:
    """Four greedy tokens, in one piece and streamed.

    Raises:
        EngineFailed: it answers wrongly.
        Unavailable: it takes no request at the moment, died of it or is late: another may pass.
    """
    for stream in (False, True):
        context = CallContext(f"verify-{app_name}", model, _TIMEOUT_S)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await _prove_answer(upstream, app_name, _build_probe(model, stream=stream), context)
        except TimeoutError as error:
            raise Unavailable("the engine did not answer the test request in time") from error


async def _prove_answer(
    upstream: HandleUpstream, app_name: str, body: bytes, context: CallContext
) -> None:
    data, tail = b"", None
    try:
        async for frame in upstream.stream(app_name, "completions", body, context):
            if frame.kind is Kind.HEAD and (fault := Head.from_frame(frame).fault):
                raise fault.to_error()
            if frame.kind is Kind.DATA:
                data += frame.payload
            elif frame.kind is Kind.TAIL:
                tail = Tail.from_frame(frame)
    except EngineFailed as error:
        # A replica that died has not answered; what replaces it is asked again.
        raise Unavailable(error.message) from error
    if tail is None:
        raise EngineFailed("the engine broke its answer to the test request")
    if tail.usage.completion_tokens < 1 or not data:
        raise EngineFailed("the engine generated nothing for the test request")


def _build_probe(model: str, *, stream: bool) -> bytes:
    return orjson.dumps(
        {"model": model, "prompt": "1 2 3", "max_tokens": 4, "temperature": 0, "stream": stream}
    )
