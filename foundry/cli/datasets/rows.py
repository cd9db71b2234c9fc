"""Rows of datasets as text: who said what, one paragraph a turn."""

import json
from collections.abc import Iterator, Mapping

from foundry.catalog.datasets.schemas import PART_FIELDS, REASONING_FIELDS
from foundry.cli.output.terminal import escape_unsafe

_INDENT = "    "


def describe_row(row: Mapping[str, object]) -> str:
    """A chat turn by turn, another row field by field; what a terminal would obey is escaped."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        # What was asked before what was answered, however the row is stored.
        names = sorted(row, key=lambda name: (name != "prompt", name))
        return "\n".join(_write_paragraph(name, row[name]) for name in names)
    lines = list(_describe_tools(row.get("tools")))
    for message in messages:
        lines.extend(_describe_turn(message) if isinstance(message, dict) else [str(message)])
    return "\n".join(lines)


def _describe_turn(message: Mapping[str, object]) -> Iterator[str]:
    role = str(message.get("role"))
    weight = message.get("weight")
    if weight == 0:
        role += " (not trained)"
    elif weight not in (None, 1):
        role += f" (weight {weight})"
    for name in REASONING_FIELDS:
        if message.get(name):
            yield _write_paragraph(role, f"thinks: {message[name]}")
    if message.get("content") is not None:
        yield _write_paragraph(role, _join_parts(message["content"]))
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        asked = function if isinstance(function, dict) else {"name": call}
        arguments = asked.get("arguments")
        text = arguments if isinstance(arguments, str) else _write_document(arguments)
        yield _write_paragraph(role, f"calls {asked.get('name')}({text})")


def _join_parts(content: object) -> object:
    if not isinstance(content, list):
        return content
    parts = [part if isinstance(part, dict) else {} for part in content]
    return "\n".join(str(part.get(PART_FIELDS.get(part.get("type", ""), ""))) for part in parts)


def _describe_tools(tools: object) -> Iterator[str]:
    if not isinstance(tools, list) or not tools:
        return
    names = []
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        names.append(str(function.get("name")) if isinstance(function, dict) else str(tool))
    yield _write_paragraph("tools", ", ".join(names))


def _write_paragraph(name: str, value: object) -> str:
    text = value if isinstance(value, str) else _write_document(value)
    return f"{escape_unsafe(name)}: " + escape_unsafe(text).replace("\n", "\n" + _INDENT)


def _write_document(value: object) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)
