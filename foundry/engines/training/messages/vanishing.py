"""Replies that a template drops, wholly or in part: they would teach the model to say nothing.

A part is there if what is learned changes without it. That needs one more rendering per part,
but no guess about how a template writes it.
"""

from collections.abc import Iterator
from typing import Any

from foundry.engines.training.messages.conversation import Row
from foundry.engines.training.messages.targets import Reply, ReplyLocator
from foundry.errors import InvalidDataset

_REASONING = ("thinking", "reasoning", "reasoning_content")


def check_nothing_vanishes(locator: ReplyLocator, ends: frozenset[str]) -> None:
    """Refuse a reply of which a part is not learned.

    Args:
        ends: texts of the tokens that end a turn.

    Raises:
        InvalidDataset: names the part, and says what to do.
    """
    learned = _cut_learned(locator.reply, ends)
    for part, without in _list_variants(locator.message):
        try:
            other = _cut_learned(locator.locate(without), ends)
        except InvalidDataset:
            # The template insists on the part, so it reads it.
            continue
        if other == learned:
            raise InvalidDataset(
                f"{part} is not in the text that the chat template renders, so it would not be "
                "learned: remove it from the row, set the message's weight to 0, or train from a "
                "base whose chat template renders it"
            )


def _cut_learned(reply: Reply, ends: frozenset[str]) -> str:
    """The characters that are learned, up to the end of the turn."""
    texts = []
    for start, end in reply.spans:
        text = reply.text[start:end]
        last = max((text.rfind(each) for each in ends), default=-1)
        texts.append(text if last < 0 else text[:last])
    return "\0".join(texts)


def _list_variants(message: Row) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a reply that says something, with the message without it."""
    content = message.get("content")
    if isinstance(content, list):
        for place, part in enumerate(content):
            if part["text"].strip():
                rest = [*content[:place], *content[place + 1 :]]
                yield f"content[{place}]", {**message, "content": rest}
    elif isinstance(content, str) and content.strip():
        yield "content", {**message, "content": ""}
    if (message.get("reasoning") or "").strip():
        yield "reasoning", {k: v for k, v in message.items() if k not in _REASONING}
    calls = message.get("tool_calls") or []
    for place, call in enumerate(calls):
        yield from _list_call_variants(message, calls, place, call)


def _list_call_variants(
    message: Row, calls: list[Any], place: int, call: Row
) -> Iterator[tuple[str, dict[str, Any]]]:
    before, after = calls[:place], calls[place + 1 :]
    rest = [*before, *after]
    bare = {k: v for k, v in message.items() if k != "tool_calls"}
    yield f"tool_calls[{place}]", {**bare, "tool_calls": rest} if rest else bare
    function = call["function"]
    changed = {"function.name": {**function, "name": f"{function['name']}_"}}
    if function["arguments"]:
        changed["function.arguments"] = {**function, "arguments": {}}
    for part, other in changed.items():
        replaced = [*before, {**call, "function": other}, *after]
        yield f"tool_calls[{place}].{part}", {**message, "tool_calls": replaced}
