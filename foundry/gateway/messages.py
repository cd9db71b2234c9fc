"""The messages of a chat: their shape, and an allow-list of content parts.

The engine decides by a part's fields when it has no `type`, fetches media by URL and unpickles
embeddings. So a part passes only if its type is listed here, with that type's own text field and
without `uuid`, which makes the engine look at the other fields again.
"""

from typing import Any

from foundry.engines.training.messages.shape import PART_FIELDS
from foundry.errors import InvalidRequest, UnsupportedFeature

# Beyond so many the engine's own validation of them would hold its loop for 50 ms
# (measured: 3.7 µs each, on one core of a busy machine).
MAX_MESSAGES = 8192
# Roles that may speak without content: they carry tool calls, or a result without text.
_CONTENT_OPTIONAL = frozenset({"assistant", "function"})


def check_messages(messages: object) -> None:
    """Refuse what is no list of messages, and every content part that is not text.

    Raises:
        InvalidRequest: names the place, like `messages.0.content.1.type`.
        UnsupportedFeature: a part of a type that is not served.
    """
    if not isinstance(messages, list):
        raise _invalid_at("messages", "must be an array")
    if not messages:
        raise _invalid_at("messages", "must have at least one item")
    if len(messages) > MAX_MESSAGES:
        raise _invalid_at("messages", f"must have at most {MAX_MESSAGES} items")
    for index, message in enumerate(messages):
        _check_message(f"messages.{index}", message)


def _check_message(where: str, message: object) -> None:
    if not isinstance(message, dict):
        raise _invalid_at(where, "must be an object")
    role = message.get("role")
    if role is None:
        raise _invalid_at(f"{where}.role", "is required")
    if not isinstance(role, str) or not role:
        raise _invalid_at(f"{where}.role", "must be a string")
    _check_content(f"{where}.content", message.get("content"), role in _CONTENT_OPTIONAL)
    _check_tool_calls(f"{where}.tool_calls", message.get("tool_calls"))


def _check_content(where: str, content: object, optional: bool) -> None:
    if content is None:
        if not optional:
            raise _invalid_at(where, "is required")
    elif isinstance(content, list):
        if not content:
            raise _invalid_at(where, "must have at least one part")
        for index, part in enumerate(content):
            _check_part(f"{where}.{index}", part)
    elif not isinstance(content, str):
        raise _invalid_at(where, "must be a string or an array of parts")


def _check_part(where: str, part: object) -> None:
    if not isinstance(part, dict):
        raise _invalid_at(where, "must be an object with a type")
    kind = part.get("type")
    if kind is None:
        raise _invalid_at(f"{where}.type", "is required")
    field = PART_FIELDS.get(kind) if isinstance(kind, str) else None
    if field is None:
        raise UnsupportedFeature(
            f"{where}: only parts of type {' or '.join(PART_FIELDS)} are supported, "
            f"not {str(kind)[:64]}",
            param=where,
        )
    if "uuid" in part:
        raise UnsupportedFeature(
            f"{where}.uuid: parts of type {kind} are supported without uuid; leave it out",
            param=f"{where}.uuid",
        )
    if not isinstance(part.get(field), str):
        demand = "must be a string" if field in part else "is required"
        raise _invalid_at(f"{where}.{field}", demand)


def _check_tool_calls(where: str, calls: object) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise _invalid_at(where, "must be an array")
    for index, call in enumerate(calls):
        place = f"{where}.{index}"
        function: Any = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise _invalid_at(f"{place}.function", "must be an object")
        for field in ("name", "arguments"):
            if not isinstance(function.get(field), str):
                demand = "must be a string" if field in function else "is required"
                raise _invalid_at(f"{place}.function.{field}", demand)


def _invalid_at(where: str, demand: str) -> InvalidRequest:
    return InvalidRequest(f"{where} {demand}", param=where)
