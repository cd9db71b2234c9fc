"""What a chat template is given for a conversation: the same dictionaries that vLLM hands it.

    row ──> typed by the API ──> parts joined or kept ──> arguments parsed ──> developer
        ──> nulls dropped ──> reasoning under every name that templates read it by

A client sends tool arguments as JSON text and null contents; templates of models expect objects and
strings. vLLM 0.29 translates (`entrypoints/chat_utils.py`, `renderers/hf.py`), then transformers
5.23 does (`apply_chat_template`). A row of a dataset takes the same way here. Where vLLM coerces
arguments that are no JSON object into `{}`, a row is refused instead: it would teach an empty call.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from foundry.engines.training.messages.shape import (
    PART_FIELDS,
    REASONING_FIELDS,
    parse_arguments,
)
from foundry.errors import InvalidDataset

Row = Mapping[str, Any]
# How a template reads `content`: one text, or a list of parts ("openai" in vLLM).
ContentFormat = Literal["string", "parts"]
# In the order in which vLLM's request models write them, which `tojson` shows.
_CALL_FIELDS = ("id", "function", "type")
_FUNCTION_FIELDS = ("arguments", "name")
_TOOL_FIELDS = ("name", "description", "parameters")
_DEVELOPER = "developer"


def prepare_messages(
    messages: Sequence[Row], content_format: ContentFormat, *, knows_developer: bool
) -> list[dict[str, Any]]:
    """Make of a row's messages what the template is given.

    Args:
        knows_developer: the template tells the developer's messages from the system's.

    Raises:
        InvalidDataset: the arguments of a tool call are no JSON object; names the place.
    """
    prepared = [
        _prepare_message(message, f"messages[{index}]", content_format)
        for index, message in enumerate(messages)
    ]
    if not knows_developer and any(message["role"] == _DEVELOPER for message in prepared):
        prepared = _merge_system_messages(
            [{**m, "role": "system"} if m["role"] == _DEVELOPER else m for m in prepared]
        )
    return [_name_reasoning(message) for message in prepared]


def prepare_tools(tools: Sequence[Row] | None) -> list[dict[str, Any]] | None:
    """Make of a row's tools what the template is given: the API's fields, in its order.

    A description or parameters that are missing become null, as in vLLM; other fields are dropped.
    """
    if not tools:
        return None
    prepared = []
    for tool in tools:
        given = tool["function"]
        function = {name: given.get(name) for name in _TOOL_FIELDS}
        if given.get("strict") is not None:
            function["strict"] = given["strict"]
        prepared.append({"type": "function", "function": function})
    return prepared


def _prepare_message(message: Row, where: str, content_format: ContentFormat) -> dict[str, Any]:
    role = message["role"]
    content = _prepare_content(message.get("content"), content_format)
    prepared: dict[str, Any] = {"role": role, "content": content}
    if role == "assistant":
        if calls := message.get("tool_calls"):
            place = f"{where}.tool_calls"
            prepared["tool_calls"] = [
                _prepare_call(call, f"{place}[{index}]") for index, call in enumerate(calls)
            ]
        if (reasoning := read_reasoning(message)) is not None:
            prepared["reasoning"] = reasoning
            prepared["reasoning_content"] = reasoning
    elif role == "tool":
        if message.get("tool_call_id") is not None:
            prepared["tool_call_id"] = str(message["tool_call_id"])
        if isinstance(content, list):
            prepared["content"] = "\n".join(part["text"] for part in content)
    if isinstance(message.get("name"), str):
        prepared["name"] = message["name"]
    return prepared


def read_reasoning(message: Row) -> str | None:
    """The reasoning of a message, under whichever name the row has it."""
    found = (message.get(name) for name in REASONING_FIELDS)
    return next((text for text in found if text is not None), None)


def _prepare_content(content: object, content_format: ContentFormat) -> Any:
    texts: list[str] = []
    if isinstance(content, str):
        texts = [content]
    elif isinstance(content, list):
        texts = [part[PART_FIELDS[part["type"]]] for part in content]
    if content_format == "parts":
        return [{"type": "text", "text": text} for text in texts]
    return "\n".join(filter(None, texts))


def _prepare_call(call: Row, where: str) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = parse_arguments(function.get("arguments"))
    except ValueError as error:
        raise InvalidDataset(f"{where}.function.arguments {error}") from error
    known = {**function, "arguments": arguments}
    # A client must send the type, and vLLM takes no other.
    given = {"type": "function", **call, "function": _order(known, _FUNCTION_FIELDS)}
    return _order(given, _CALL_FIELDS)


def _order(fields: Row, first: Sequence[str]) -> dict[str, Any]:
    known = {name: fields[name] for name in first if fields.get(name) is not None}
    return {**known, **{name: value for name, value in fields.items() if name not in first}}


def _merge_system_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One system message at the start, if there are several or one stands elsewhere."""
    texts: list[str] = []
    others: list[dict[str, Any]] = []
    misplaced = False
    for index, message in enumerate(messages):
        if message["role"] != "system":
            others.append(message)
            continue
        misplaced = misplaced or index > 0 or bool(texts)
        content = message["content"]
        if isinstance(content, list):
            content = "\n".join(part["text"] for part in content)
        if content:
            texts.append(content)
    if not misplaced:
        return messages
    return [{"role": "system", "content": "\n\n".join(texts)}, *others]


def _name_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    reasoning = message.get("reasoning")
    return message if reasoning is None else {"thinking": reasoning, **message}
