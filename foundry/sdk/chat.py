"""Streamed chat over the OpenAI API. For everything else of `/v1`, use the `openai` package."""

import json
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from foundry.errors import EngineFailed
from foundry.sdk._errors import from_body
from foundry.sdk._transport import AsyncSender, Call, Resource, SyncSender, path

_PLANE = "/v1"
_ROUTE = f"{_PLANE}/chat/completions"
_PREFIX = "data:"
_DONE = "[DONE]"

Messages = Sequence[Mapping[str, str]]
# Is told why an answer ended: `stop`; `length`: it reached max_tokens or the model's context.
OnFinish = Callable[[str], None]


class _Card(BaseModel):
    id: str


class _Cards(BaseModel):
    data: list[_Card]


_LIST = Call("GET", path("models"), _Cards, plane=_PLANE)


@dataclass(frozen=True, slots=True)
class _Event:
    """One event of the stream.

    Attributes:
        text: a piece of the answer; empty: it holds none.
        finish_reason: None: the answer goes on.
    """

    text: str
    finish_reason: str | None

    def tell_finish(self, on_finish: OnFinish | None) -> None:
        if on_finish is not None and self.finish_reason is not None:
            on_finish(self.finish_reason)


def _write_body(model: str, messages: Messages, options: Mapping[str, object]) -> dict[str, object]:
    given = {name: value for name, value in options.items() if value is not None}
    return {"model": model, "messages": [dict(m) for m in messages], "stream": True} | given


def _parse_event(data: str) -> _Event:
    """Read one event.

    Raises:
        FoundryError: the event reports one.
    """
    try:
        document = json.loads(data)
        if (error := from_body(document)) is not None:
            raise error
        choice = (document.get("choices") or [{}])[0]
        text = choice.get("delta", {}).get("content")
        return _Event(str(text or ""), choice.get("finish_reason"))
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise EngineFailed(
            f"the stream held an event that is no chat chunk: {data[:80]}"
        ) from error


class SyncChat(Resource[SyncSender]):
    def models(self) -> list[str]:
        """What a request may name now."""
        return [card.id for card in self.sender.send(_LIST).data]

    def stream(
        self,
        model: str,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        on_finish: OnFinish | None = None,
    ) -> Generator[str, None, None]:
        """The answer, piece by piece as it is generated. Closing the iterator stops it.

        Args:
            on_finish: is told why the answer ended: `stop`; `length`: it reached `max_tokens` or
                the end of the model's context.

        Raises:
            EngineFailed: the stream ended before the answer did.
        """
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        with self.sender.lines(_ROUTE, _write_body(model, messages, options)) as lines:
            for line in lines:
                if not line.startswith(_PREFIX):
                    continue
                data = line.removeprefix(_PREFIX).strip()
                if data == _DONE:
                    return
                event = _parse_event(data)
                event.tell_finish(on_finish)
                if event.text:
                    yield event.text
        raise EngineFailed("the stream ended before the answer did")


class AsyncChat(Resource[AsyncSender]):
    async def models(self) -> list[str]:
        """What a request may name now; see `SyncChat.models`."""
        return [card.id for card in (await self.sender.send(_LIST)).data]

    async def stream(
        self,
        model: str,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        on_finish: OnFinish | None = None,
    ) -> AsyncGenerator[str, None]:
        """The answer, piece by piece; see `SyncChat.stream`."""
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        async with self.sender.lines(_ROUTE, _write_body(model, messages, options)) as lines:
            async for line in lines:
                if not line.startswith(_PREFIX):
                    continue
                data = line.removeprefix(_PREFIX).strip()
                if data == _DONE:
                    return
                event = _parse_event(data)
                event.tell_finish(on_finish)
                if event.text:
                    yield event.text
        raise EngineFailed("the stream ended before the answer did")
