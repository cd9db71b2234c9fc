"""Streamed chat over the OpenAI API. For everything else of `/v1`, use the `openai` package."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from foundry.errors import EngineFailed
from foundry.sdk._errors import from_body
from foundry.sdk._transport import AsyncSender, Resource, SyncSender

_ROUTE = "/v1/chat/completions"
_PREFIX = "data:"
_DONE = "[DONE]"

Messages = Sequence[Mapping[str, str]]


def _document(model: str, messages: Messages, options: Mapping[str, object]) -> dict[str, object]:
    given = {name: value for name, value in options.items() if value is not None}
    return {"model": model, "messages": [dict(m) for m in messages], "stream": True} | given


def _text(data: str) -> str:
    """The piece of the answer in one event.

    Raises:
        FoundryError: the event reports one.
    """
    try:
        document = json.loads(data)
        if (error := from_body(document)) is not None:
            raise error
        choices = document.get("choices") or [{}]
        return choices[0].get("delta", {}).get("content") or ""
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise EngineFailed(
            f"the stream held an event that is no chat chunk: {data[:80]}"
        ) from error


class SyncChat(Resource[SyncSender]):
    def stream(
        self,
        model: str,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The answer, piece by piece as it is generated.

        Raises EngineFailed: the stream ended before the answer did.
        """
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        with self.sender.lines(_ROUTE, _document(model, messages, options)) as lines:
            for line in lines:
                if not line.startswith(_PREFIX):
                    continue
                data = line.removeprefix(_PREFIX).strip()
                if data == _DONE:
                    return
                if text := _text(data):
                    yield text
        raise EngineFailed("the stream ended before the answer did")


class AsyncChat(Resource[AsyncSender]):
    async def stream(
        self,
        model: str,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> AsyncIterator[str]:
        """As `SyncChat.stream`."""
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        async with self.sender.lines(_ROUTE, _document(model, messages, options)) as lines:
            async for line in lines:
                if not line.startswith(_PREFIX):
                    continue
                data = line.removeprefix(_PREFIX).strip()
                if data == _DONE:
                    return
                if text := _text(data):
                    yield text
        raise EngineFailed("the stream ended before the answer did")
