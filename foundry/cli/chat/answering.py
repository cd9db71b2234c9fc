"""One answer, streamed to whoever reads it, and why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry.cli.chat.conversation import Conversation, Message, Turn
from foundry.enumeration import name_first
from foundry.errors import FoundryError, InvalidRequest, ModelNotFound, NoHealthyUpstream

if TYPE_CHECKING:
    from foundry.sdk import Foundry

CUT_OFF = "cut off: max_tokens or the model's context was reached"
# Of what runs, so many names fit into an error.
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an answer.

    Attributes:
        text: as far as it came.
        stopped: Ctrl-C ended it.
        cut: it reached max_tokens or the end of the model's context.
    """

    text: str
    stopped: bool = False
    cut: bool = False


def stream_answer(
    client: Foundry, conversation: Conversation, turn: Turn, show: Callable[[str], None]
) -> Answer:
    """Ask, and hand every piece of the answer to `show` as it comes.

    Ctrl-C closes the HTTP stream, by which the server stops generating.

    Raises:
        FoundryError: there is no answer, or it broke off.
    """
    pieces: list[str] = []
    reasons: list[str] = []
    messages = conversation.list_messages(turn)
    _require_text(conversation.model, messages)
    sampling = conversation.sampling
    stream = client.chat.stream(
        conversation.model,
        messages,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        seed=sampling.seed,
        on_finish=reasons.append,
    )
    try:
        with closing(stream):
            for piece in stream:
                pieces.append(piece)
                show(piece)
    except KeyboardInterrupt:
        return Answer("".join(pieces), stopped=True)
    except (ModelNotFound, NoHealthyUpstream) as error:
        raise _tell_what_is_served(client, error) from error
    return Answer("".join(pieces), cut="length" in reasons)


def require_served(client: Foundry, model: str) -> None:
    """Refuse a name before a question, if it is plain that nothing answers to it.

    Raises:
        ModelNotFound: it names what runs.
    """
    served = client.chat.models()
    # Every version and alias of a model answers where the model does.
    if model.partition("@")[0] not in {name.partition("@")[0] for name in served}:
        raise ModelNotFound(
            f"{model} is not served ({name_served(served)}): `foundry deploy {model}` serves it, "
            "`foundry endpoints list` shows what starts"
        )


def name_served(names: Iterable[str]) -> str:
    """What runs, after the word `served`."""
    return f"now: {name_first(names, _NAMED) or 'nothing'}"


def _tell_what_is_served(client: Foundry, error: FoundryError) -> FoundryError:
    try:
        served = client.chat.models()
    except FoundryError:
        return error
    told = f"served {name_served(served)}"
    if not served:
        told = "nothing is served: `foundry deploy MODEL` serves one"
    return type(error)(f"{error.message}; {told}", **error.details)


def _require_text(model: str, messages: list[Message]) -> None:
    # Bytes of a command line or a terminal that are no UTF-8 arrive as lone surrogates.
    for text in (model, *(message["content"] for message in messages)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest("the model's name or the text is not UTF-8") from error
