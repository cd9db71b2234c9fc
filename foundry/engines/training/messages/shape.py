"""What a row of messages may hold: read by the check of datasets and by training alike."""

import json
from collections.abc import Mapping
from typing import Any

# The developer's messages are the system's where a template does not tell them apart.
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
# Type of a content part → the field that holds its text. Serving takes the same ones.
PART_FIELDS = {"text": "text", "refusal": "refusal"}
# What clients call the model's reasoning; the first one that is set counts, as in vLLM.
REASONING_FIELDS = ("reasoning", "reasoning_content")
MESSAGE_FIELDS = (
    "role", "content", *REASONING_FIELDS, "tool_calls", "tool_call_id", "name", "weight",
)  # fmt: skip
# Beside `messages`; `chat_template_kwargs` are what a request of that name holds.
ROW_FIELDS = ("tools", "documents", "chat_template_kwargs")
# What a template is given in any case, so that a row cannot set it.
RESERVED_KWARGS = frozenset(
    {
        "messages", "conversation", "tools", "documents", "chat_template", "tokenize",
        "add_generation_prompt", "continue_final_message",
    }
)  # fmt: skip

# What rows have beside text → the words by which templates name it.
USES = {
    "tools": ("tools",),
    "tool_calls": ("tool_calls",),
    "reasoning": ("reasoning", "thinking"),
}


def list_uses(row: Mapping[str, Any]) -> set[str]:
    """What a valid row asks of a template beside text: names of USES."""
    learned = [
        message
        for message in row.get("messages", ())
        if message["role"] == "assistant" and message.get("weight") != 0
    ]
    uses = {"tools"} if row.get("tools") else set()
    if any(message.get("tool_calls") for message in learned):
        uses.add("tool_calls")
    if any(message.get(name) for message in learned for name in REASONING_FIELDS):
        uses.add("reasoning")
    return uses


def parse_arguments(arguments: object) -> dict[str, Any]:
    """The arguments of a tool call, which a row holds as an object or as JSON text of one.

    Raises:
        ValueError: they are neither; completes the sentence "messages[1]…arguments …".
    """
    if isinstance(arguments, str) and arguments:
        try:
            arguments = json.loads(arguments, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError("is a string that is not JSON: write an object") from error
        if not isinstance(arguments, dict):
            raise ValueError("is JSON of something else than an object: write an object")
    if not arguments and (arguments is None or isinstance(arguments, str | dict)):
        return {}
    if not isinstance(arguments, dict):
        raise ValueError("must be an object, or a string with the JSON of one")
    return arguments


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
