"""What the messages and the tools of a chat row must look like; every finding names its place.

Training renders a row as serving renders the same history, so a row may hold what a request may
hold, and nothing that would be dropped on the way.
"""

import math
from collections.abc import Iterator, Mapping

from foundry.engines.training.messages.shape import (
    MESSAGE_FIELDS,
    PART_FIELDS,
    REASONING_FIELDS,
    RESERVED_KWARGS,
    ROLES,
    parse_arguments,
)

Finding = tuple[str, str, str]
# Beyond these a loss in float32 vanishes or ends the run, and no row is named any more.
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-6, 1000
_SHOWN_CHARS = 40
# OpenAI's older names; what stands there would be lost.
_OLD_ROW_FIELDS = ("functions", "function_call")


def check_message(index: int, message: object) -> Iterator[Finding]:
    """What is wrong with one message by itself."""
    path = f"messages[{index}]"
    if not isinstance(message, dict):
        yield path, "wrong_type", f"must be an object, is {name_type(message)}"
        return
    role = message.get("role")
    if role is None:
        yield f"{path}.role", "missing_field", "every message needs it"
    elif not isinstance(role, str) or role not in ROLES:
        said = f"{str(role)[:_SHOWN_CHARS]!r} is none of {list_names(ROLES)}"
        yield f"{path}.role", "unknown_role", said
    yield from _check_content(path, message)
    yield from _check_identifier(f"{path}.tool_call_id", message.get("tool_call_id"))
    yield from _check_text(f"{path}.name", message.get("name"))
    yield from _check_weight(path, message)
    yield from _check_reasoning(path, message)
    yield from _check_calls(path, message)
    for name, value in message.items():
        if value is not None and name not in MESSAGE_FIELDS:
            said = "training and serving read no such field of a message: remove it"
            if name == "thinking":
                said = f"call it {REASONING_FIELDS[-1]}"
            yield f"{path}.{name[:_SHOWN_CHARS]}", "unknown_field", said


def check_surroundings(row: Mapping[str, object]) -> Iterator[Finding]:
    """What is wrong with the fields beside `messages`."""
    yield from _check_tools(row.get("tools"))
    documents = row.get("documents")
    if documents is not None and not (
        isinstance(documents, list) and all(isinstance(each, dict) for each in documents)
    ):
        yield "documents", "wrong_type", "must be an array of objects"
    kwargs = row.get("chat_template_kwargs")
    if kwargs is not None and not isinstance(kwargs, dict):
        yield "chat_template_kwargs", "wrong_type", f"must be an object, is {name_type(kwargs)}"
    elif kwargs:
        for name in sorted(RESERVED_KWARGS.intersection(kwargs)):
            said = "training sets it itself: remove it"
            yield f"chat_template_kwargs.{name}", "unknown_field", said
    for name in _OLD_ROW_FIELDS:
        if row.get(name) is not None:
            yield name, "unknown_field", "write tools, and tool_calls in the messages"


def has_text(content: object) -> bool:
    """Whether a content that was found valid says something."""
    if isinstance(content, list):
        return any(str(part[PART_FIELDS[part["type"]]]).strip() for part in content)
    return isinstance(content, str) and bool(content.strip())


def _check_content(path: str, message: Mapping[str, object]) -> Iterator[Finding]:
    content = message.get("content")
    if content is None:
        if not message.get("tool_calls"):
            yield f"{path}.content", "missing_field", "every message needs it"
    elif isinstance(content, list):
        for place, part in enumerate(content):
            yield from _check_part(f"{path}.content[{place}]", part)
    elif not isinstance(content, str):
        said = f"must be a string or an array of parts, is {name_type(content)}"
        yield f"{path}.content", "wrong_type", said


def _check_part(path: str, part: object) -> Iterator[Finding]:
    if not isinstance(part, dict):
        yield path, "wrong_type", f"must be an object with a type, is {name_type(part)}"
        return
    kind = part.get("type")
    field = PART_FIELDS.get(kind) if isinstance(kind, str) else None
    if field is None:
        said = f"only parts of type {' or '.join(PART_FIELDS)} are trained and served"
        yield f"{path}.type", "wrong_type" if kind is not None else "missing_field", said
        return
    if not isinstance(part.get(field), str):
        yield f"{path}.{field}", "wrong_type", f"must be a string, is {name_type(part.get(field))}"
    for name, value in part.items():
        if value is not None and name not in ("type", field):
            said = "no template reads such a field of a part: remove it"
            yield f"{path}.{name[:_SHOWN_CHARS]}", "unknown_field", said


def _check_weight(path: str, message: Mapping[str, object]) -> Iterator[Finding]:
    weight = message.get("weight")
    if weight is None:
        return
    place = f"{path}.weight"
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        yield place, "wrong_type", f"must be a number, is {name_type(weight)}"
    elif isinstance(weight, float) and not math.isfinite(weight):
        yield place, "non_finite", "must be a number of at least 0"
    elif weight and not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
        said = f"must be 0, or from {_LEAST_WEIGHT:g} to {_MOST_WEIGHT}"
        yield place, "wrong_type", said
    elif weight and message.get("role") != "assistant":
        yield place, "unknown_field", "only the assistant's messages are learned: remove it"


def _check_reasoning(path: str, message: Mapping[str, object]) -> Iterator[Finding]:
    given = {name: message[name] for name in REASONING_FIELDS if message.get(name) is not None}
    for name, text in given.items():
        yield from _check_text(f"{path}.{name}", text)
        if message.get("role") != "assistant":
            said = "only the assistant's messages have reasoning: remove it"
            yield f"{path}.{name}", "unknown_field", said
    if len(set(map(str, given.values()))) > 1:
        said = f"differs from {REASONING_FIELDS[0]}, which serving reads: remove one of them"
        yield f"{path}.{REASONING_FIELDS[-1]}", "wrong_type", said


def _check_calls(path: str, message: Mapping[str, object]) -> Iterator[Finding]:
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        yield f"{path}.tool_calls", "wrong_type", "must be an array of objects"
        return
    if calls and message.get("role") != "assistant":
        yield f"{path}.tool_calls", "unknown_field", "only the assistant calls tools: remove it"
    for place, call in enumerate(calls):
        yield from _check_call(f"{path}.tool_calls[{place}]", call)


def _check_call(path: str, call: Mapping[str, object]) -> Iterator[Finding]:
    yield from _check_identifier(f"{path}.id", call.get("id"))
    if call.get("type") not in (None, "function"):
        yield f"{path}.type", "wrong_type", "must be function: there are no other calls"
    function = call.get("function")
    if not isinstance(function, dict):
        code = "missing_field" if function is None else "wrong_type"
        yield f"{path}.function", code, "must be an object with name and arguments"
        return
    yield from _check_function_name(f"{path}.function", function)
    try:
        parse_arguments(function.get("arguments"))
    except ValueError as error:
        yield f"{path}.function.arguments", "wrong_type", str(error)


def _check_tools(tools: object) -> Iterator[Finding]:
    if tools is None:
        return
    if not isinstance(tools, list):
        yield "tools", "wrong_type", "must be an array"
        return
    for place, tool in enumerate(tools):
        path = f"tools[{place}].function"
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            code = "missing_field" if function is None else "wrong_type"
            yield path, code, "must be an object with name, description and parameters"
            continue
        yield from _check_function_name(path, function)
        yield from _check_text(f"{path}.description", function.get("description"))
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, dict):
            said = f"must be an object, is {name_type(parameters)}"
            yield f"{path}.parameters", "wrong_type", said


def _check_function_name(path: str, function: Mapping[str, object]) -> Iterator[Finding]:
    if function.get("name") is None:
        yield f"{path}.name", "missing_field", "every function needs it"
    else:
        yield from _check_text(f"{path}.name", function["name"])


def _check_text(path: str, value: object) -> Iterator[Finding]:
    if value is not None and not isinstance(value, str):
        yield path, "wrong_type", f"must be a string, is {name_type(value)}"


def _check_identifier(path: str, value: object) -> Iterator[Finding]:
    if value is not None and not isinstance(value, str | int):
        yield path, "wrong_type", f"must be a string, is {name_type(value)}"


def list_names(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def name_type(value: object) -> str:
    """What JSON calls the type of a value."""
    names = {
        type(None): "null",
        bool: "a boolean",
        str: "a string",
        list: "an array",
        dict: "an object",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")
