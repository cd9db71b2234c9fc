"""What a row must look like; every finding names its place."""

import math
from collections.abc import Iterator

from foundry.catalog.datasets.domain import Kind
from foundry.catalog.datasets.messages import (
    Finding,
    check_message,
    check_surroundings,
    has_text,
    list_names,
    name_type,
)
from foundry.engines.training.messages.conversation import read_reasoning
from foundry.engines.training.messages.shape import MESSAGE_FIELDS, ROW_FIELDS

# Far above what tool arguments need, far below what recursion bears.
_MAX_DEPTH = 64
_SHOWN_CHARS = 40


def detect_kind(row: dict[str, object]) -> Kind | None:
    if "messages" in row:
        return "chat"
    if "prompt" in row or "completion" in row:
        return "prompt_completion"
    return None


def find_faults(row: dict[str, object], kind: Kind) -> Iterator[Finding]:
    """`(path, code, message)` of everything that is wrong with `row`."""
    yield from _check_pair(row) if kind == "prompt_completion" else _check_chat(row)


def clean_row(row: dict[str, object], kind: Kind) -> dict[str, object]:
    """The fields that training reads, of a valid row.

    Fields of ours come in the order of their names; what lies below keeps its order, as templates
    print the keys of arguments and of parameters as they come.
    """
    if kind == "prompt_completion":
        return {"completion": row["completion"], "prompt": row["prompt"]}
    messages = [
        {name: message[name] for name in sorted(MESSAGE_FIELDS) if message.get(name) is not None}
        for message in _get_messages(row)
    ]
    given = {name: row[name] for name in ROW_FIELDS if row.get(name)}
    return dict(sorted({"messages": messages, **given}.items()))


def select_prompt(row: dict[str, object], kind: Kind) -> object:
    """What is asked, without the answers: rows that ask the same belong into one split."""
    if kind == "prompt_completion":
        return row["prompt"]
    asked = []
    for message in _get_messages(row):
        if message["role"] == "assistant":
            break
        asked.append(message)
    return asked


def _get_messages(row: dict[str, object]) -> list[dict[str, object]]:
    messages = row["messages"]
    assert isinstance(messages, list)
    return messages


def _check_pair(row: dict[str, object]) -> Iterator[Finding]:
    for name in ("prompt", "completion"):
        if name not in row:
            yield name, "missing_field", "a prompt/completion row needs it"
        elif not isinstance(row[name], str):
            yield name, "wrong_type", f"must be a string, is {name_type(row[name])}"
    completion = row.get("completion")
    if isinstance(completion, str) and not completion.strip():
        yield "completion", "empty_target", "there is nothing to learn"


def _check_chat(row: dict[str, object]) -> Iterator[Finding]:
    messages = row.get("messages")
    if messages is None:
        yield "messages", "missing_field", "a chat row needs it"
        return
    if not isinstance(messages, list):
        yield "messages", "wrong_type", f"must be an array, is {name_type(messages)}"
        return
    if not messages:
        yield "messages", "empty_target", "there are no messages"
        return
    shape = [finding for i, message in enumerate(messages) for finding in check_message(i, message)]
    yield from shape
    yield from check_surroundings(row)
    if not shape:
        yield from _check_turns(messages)
        yield from _check_answered_calls(messages)
        if not any(_is_target(message) for message in messages):
            yield "messages", "empty_target", "no assistant message has content to learn"


def find_foreign_values(value: object, path: str = "", depth: int = 0) -> Iterator[Finding]:
    """What JSON cannot say: Parquet has times and bytes, and 1e999 is an infinite number."""
    if depth > _MAX_DEPTH:
        yield path, "bad_json", f"nested deeper than {_MAX_DEPTH} levels"
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield path, "wrong_type", "a name must be a string"
                continue
            name = key[:_SHOWN_CHARS]
            yield from find_foreign_values(item, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find_foreign_values(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, "non_finite", f"{value} is not a JSON number"
    elif value is not None and not isinstance(value, str | int | float):
        yield path, "wrong_type", f"a {type(value).__name__} is no JSON value"


# Who may speak after whom; "" is the start.
_AFTER = {
    "": frozenset({"system", "developer", "user"}),
    "system": frozenset({"developer", "user"}),
    "developer": frozenset({"user"}),
    "user": frozenset({"assistant"}),
    "assistant": frozenset({"user"}),
    "tool": frozenset({"tool", "assistant"}),
}


def _list_next_roles(previous: dict[str, object] | None) -> frozenset[str]:
    if previous is None:
        return _AFTER[""]
    if previous.get("tool_calls"):
        return frozenset({"tool"})
    return _AFTER[str(previous["role"])]


def _check_turns(messages: list[dict[str, object]]) -> Iterator[Finding]:
    previous: dict[str, object] | None = None
    for index, message in enumerate(messages):
        allowed = _list_next_roles(previous)
        # A tool message out of place is reported as the dangling call that it is.
        if message["role"] not in allowed and message["role"] != "tool":
            where = f"after {previous['role']}" if previous else "at the start"
            yield (
                f"messages[{index}].role",
                "bad_turn_order",
                f"{message['role']} {where}; expected {list_names(allowed)}",
            )
            return
        previous = message
    if previous is not None and previous["role"] != "assistant":
        yield (
            f"messages[{len(messages) - 1}].role",
            "bad_turn_order",
            "the last message must be the assistant's: it is what is learned",
        )


def _check_answered_calls(messages: list[dict[str, object]]) -> Iterator[Finding]:
    """Every call is answered before the next turn, and every answer has its call."""
    open_calls: dict[object, str] = {}
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if open_calls.pop(message.get("tool_call_id"), None) is None:
                path = f"messages[{index}].tool_call_id"
                yield path, "dangling_tool_call", "it answers no call before it"
            continue
        yield from _report_unanswered(open_calls)
        open_calls = {}
        calls = message.get("tool_calls") or []
        assert isinstance(calls, list)
        for place, call in enumerate(calls):
            open_calls[call.get("id")] = f"messages[{index}].tool_calls[{place}]"
    # The last message may end in calls: they are what is learned.


def _report_unanswered(open_calls: dict[object, str]) -> Iterator[Finding]:
    for path in open_calls.values():
        yield path, "dangling_tool_call", "no tool message answers it"


def _is_target(message: dict[str, object]) -> bool:
    if message["role"] != "assistant" or message.get("weight", 1) == 0:
        return False
    said = has_text(message.get("content")) or (read_reasoning(message) or "").strip()
    return bool(message.get("tool_calls") or said)
