"""The request body: parsed once, checked for what the gateway needs, forwarded as it came."""

from dataclasses import dataclass
from typing import Any

import orjson

from foundry.errors import InvalidRequest, UnsupportedFeature

MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Ask:
    """One completion request.

    Attributes:
        raw: the bytes to forward.
    """

    model: str
    stream: bool
    raw: bytes


def parse(raw: bytes) -> Ask:
    """Raises InvalidRequest with the first problem."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    _check_depth(raw, body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model: a non-empty string is required", param="model")
    stream = body.get("stream", False)
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("stream: must be true or false", param="stream")
    _refuse_media(body.get("messages"))
    return Ask(model, bool(stream), raw)


def _check_depth(raw: bytes, body: object) -> None:
    # Fewer brackets than the limit cannot nest deeper than it: the usual case needs no walk.
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels")


def _refuse_media(messages: object) -> None:
    """The engine would fetch media by URL; nothing may make it reach out of the perimeter."""
    if not isinstance(messages, list):
        return
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list):
            continue
        for part in content:
            if isinstance(part, dict) and part.get("type", "text") not in ("text", "refusal"):
                raise UnsupportedFeature(
                    f"messages.{index}.content: only text parts are supported",
                    param="messages",
                )
