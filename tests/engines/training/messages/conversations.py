"""Conversations of every shape that rows have: training must render each as serving does.

Every part of a reply holds a word of its own (`mark…`), so that a test can tell whether it was
learned. Names say what is special about a row.
"""

import json
from typing import Any

Row = dict[str, Any]


def say(role: str, content: Any, **fields: Any) -> Row:
    return {"role": role, "content": content, **fields}


def ask(content: Any, **fields: Any) -> Row:
    return say("user", content, **fields)


def tell(content: Any, **fields: Any) -> Row:
    return say("assistant", content, **fields)


def call(name: str, arguments: Any, identifier: str = "call00001", **fields: Any) -> Row:
    function = {"name": name, "arguments": arguments}
    return {"id": identifier, "type": "function", "function": function, **fields}


def answer(content: Any, identifier: str = "call00001", **fields: Any) -> Row:
    return say("tool", content, tool_call_id=identifier, **fields)


def text(*texts: str) -> list[Row]:
    return [{"type": "text", "text": each} for each in texts]


def tool(name: str, properties: Row | None = None, **fields: Any) -> Row:
    parameters = {"type": "object", "properties": properties or {}, "required": []}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


WEATHER = tool(
    "get_weather",
    {"city": {"type": "string", "description": "a city <b>"}, "days": {"type": "integer"}},
    description="The weather of a city & its days",
)
CLOCK = tool("get_time", {"zone": {"type": "string"}}, description="The time")
BARE = {"type": "function", "function": {"name": "ping"}}
STRICT = tool("book", {"seat": {"type": "string"}}, strict=True, description="Book")
NESTED = {
    "filter": {"all": [{"field": "price", "max": 10.5}, {"any": ["a", None, True]}]},
    "page": 2,
}
SYSTEM = say("system", "You are terse.")
OSLO = call("get_weather", {"city": "markOslo", "days": 2})
BERGEN = call("get_time", '{"zone": "markBergen"}', "call00002")


def chat(*messages: Row, **fields: Any) -> Row:
    return {"messages": list(messages), **fields}


def using(*messages: Row, tools: tuple[Row, ...] = (WEATHER, CLOCK), **fields: Any) -> Row:
    return {"messages": list(messages), "tools": list(tools), **fields}


_PLAIN: dict[str, Row] = {
    "one turn": chat(ask("hi"), tell("markA hello")),
    "two turns": chat(ask("hi"), tell("markA"), ask("more"), tell("markB")),
    "four turns": chat(*(m for i in range(4) for m in (ask(f"q{i}"), tell(f"mark{i} a{i}")))),
    "system": chat(SYSTEM, ask("hi"), tell("markA")),
    "empty system": chat(say("system", ""), ask("hi"), tell("markA")),
    "long system": chat(say("system", "rule. " * 300), ask("hi"), tell("markA")),
    "system and two turns": chat(SYSTEM, ask("a"), tell("markA"), ask("b"), tell("markB")),
    "empty user": chat(ask(""), tell("markA")),
    "unicode": chat(ask("Grüße, 你好, 🙂"), tell("markA 🙂‍↔️ naïve Ω ﷺ")),
    "combining characters": chat(ask("e\u0301 vs \u00e9"), tell("markA e\u0301\u0323")),
    "right to left": chat(ask("שלום"), tell("markA مرحبا")),
    "html": chat(ask("<b>&amp;</b>"), tell("markA <i>\"x\" & 'y'</i>")),
    "quotes and backslashes": chat(ask('C:\\new "x"'), tell("markA \\n is not\na line")),
    "code": chat(ask("code?"), tell("markA\n```python\n    def f(x):\n\treturn {x: 1}\n```")),
    "jinja in content": chat(ask("{{ 1 + 1 }} {% if x %}"), tell("markA {{ bos_token }} {# c #}")),
    "leading and trailing spaces": chat(ask("  hi  "), tell("  markA said  \n")),
    "line breaks": chat(ask("a\r\nb\n\n\nc"), tell("markA\n\nx\ty\u2028z")),
    "long": chat(ask("word " * 2000), tell("markA " + "answer " * 1500)),
    "control tokens as text": chat(ask("say <|im_end|> or </s>"), tell("markA [INST] <think>")),
    "zero width": chat(ask("a\u200bb\ufeff"), tell("markA\u00a0b\u200d")),
    "numbers": chat(ask("1e999 -0 0x1F"), tell("markA 3.14159 1_000")),
    "weight zero first": chat(ask("a"), tell("first", weight=0), ask("b"), tell("markB")),
    "weight zero last": chat(ask("a"), tell("markA"), ask("b"), tell("last", weight=0)),
    "fractional weight": chat(ask("a"), tell("markA", weight=0.25), ask("b"), tell("markB")),
    "names": chat(ask("hi", name="ann"), tell("markA", name="bot"), ask("b"), tell("markB")),
    "null fields": chat(ask("hi", name=None), tell("markA", tool_calls=None, tool_call_id=None)),
    "empty tool calls": chat(ask("hi"), tell("markA", tool_calls=[])),
    "developer": chat(say("developer", "Be brief."), ask("hi"), tell("markA")),
    "developer after system": chat(SYSTEM, say("developer", "Be kind."), ask("hi"), tell("markA")),
    "developer in parts": chat(say("developer", text("a", "b")), ask("hi"), tell("markA")),
}
_PARTS: dict[str, Row] = {
    "user in parts": chat(ask(text("first", "second")), tell("markA")),
    "one part": chat(ask(text("only")), tell("markA")),
    "empty part": chat(ask(text("", "x")), tell("markA")),
    "no parts": chat(ask([]), tell("markA")),
    "reply in parts": chat(ask("hi"), tell(text("markA", "markB"))),
    "system in parts": chat(say("system", text("be", "brief")), ask("hi"), tell("markA")),
    "refusal part": chat(ask("hi"), tell([{"type": "refusal", "refusal": "markA no"}])),
    "all in parts": chat(ask(text("a")), tell(text("markA")), ask(text("b")), tell(text("markB"))),
}
_REASONING: dict[str, Row] = {
    "reasoning": chat(ask("1+1"), tell("markA 2", reasoning_content="markR add")),
    "reasoning by its other name": chat(ask("1+1"), tell("markA 2", reasoning="markR add")),
    "reasoning in two turns": chat(
        ask("1+1"), tell("markA", reasoning_content="markR"),
        ask("2+2"), tell("markB", reasoning_content="markS"),
    ),
    "reasoning in the first turn": chat(
        ask("1+1"), tell("markA", reasoning_content="markR"), ask("ok"), tell("markB")
    ),
    "empty reasoning": chat(ask("1+1"), tell("markA", reasoning_content="")),
    "long reasoning": chat(ask("why"), tell("markA", reasoning_content="markR " + "so " * 500)),
    "thinking as text": chat(ask("1+1"), tell("<think>\nmarkR\n</think>\n\nmarkA")),
    "unicode reasoning": chat(ask("?"), tell("markA ✓", reasoning_content="markR ∑ → 🙂")),
    "reasoning before a call": using(
        ask("Oslo?"), tell("", reasoning_content="markR look", tool_calls=[OSLO]),
        answer("rain"), tell("markB", reasoning_content="markS done"),
    ),
    "thinking off": chat(
        ask("1+1"), tell("markA"), chat_template_kwargs={"enable_thinking": False}
    ),
    "thinking on": chat(
        ask("1+1"), tell("markA", reasoning_content="markR"),
        chat_template_kwargs={"enable_thinking": True},
    ),
    "effort": chat(
        SYSTEM, ask("1+1"), tell("markA"), chat_template_kwargs={"reasoning_effort": "low"}
    ),
}  # fmt: skip
_TOOLS: dict[str, Row] = {
    "tools unused": using(ask("hi"), tell("markA")),
    "tools with a system": using(SYSTEM, ask("hi"), tell("markA")),
    "bare tool": using(ask("hi"), tell("markA"), tools=(BARE,)),
    "strict tool": using(ask("hi"), tell("markA"), tools=(STRICT,)),
    "tool with other fields": using(
        ask("hi"), tell("markA"),
        tools=({**WEATHER, "x": 1}, tool("f", returns={"type": "string"})),
    ),
    "call": using(ask("Oslo?"), tell("", tool_calls=[OSLO])),
    "call with null content": using(ask("Oslo?"), tell(None, tool_calls=[OSLO])),
    "call without content": using(
        ask("Oslo?"), {"role": "assistant", "tool_calls": [OSLO]}
    ),
    "call with string arguments": using(ask("Bergen?"), tell(None, tool_calls=[BERGEN])),
    "call beside content": using(ask("Oslo?"), tell("markA look", tool_calls=[OSLO])),
    "call and answer": using(
        ask("Oslo?"), tell(None, tool_calls=[OSLO]), answer("rain"), tell("markB")
    ),
    "answer in parts": using(
        ask("Oslo?"), tell(None, tool_calls=[OSLO]), answer(text("rain", "wind")), tell("markB")
    ),
    "answer is JSON": using(
        ask("Oslo?"), tell(None, tool_calls=[OSLO]),
        answer(json.dumps({"sky": "grå", "wind": [1, 2]}, ensure_ascii=False)), tell("markB"),
    ),
    "answer is empty": using(
        ask("Oslo?"), tell(None, tool_calls=[OSLO]), answer(""), tell("markB")
    ),
    "answer with a name": using(
        ask("Oslo?"), tell(None, tool_calls=[OSLO]), answer("rain", name="get_weather"),
        tell("markB"),
    ),
    "parallel calls": using(ask("both?"), tell(None, tool_calls=[OSLO, BERGEN])),
    "parallel calls and answers": using(
        ask("both?"), tell(None, tool_calls=[OSLO, BERGEN]), answer("rain"),
        answer("12:00", "call00002"), tell("markB"),
    ),
    "calls in a row": using(
        ask("both?"), tell(None, tool_calls=[OSLO]), answer("rain"),
        tell(None, tool_calls=[BERGEN]), answer("12:00", "call00002"), tell("markB"),
    ),
    "call in the second turn": using(
        ask("hi"), tell("markA"), ask("Oslo?"), tell(None, tool_calls=[OSLO]), answer("rain"),
        tell("markB"),
    ),
    "nested arguments": using(ask("find"), tell(None, tool_calls=[call("get_weather", NESTED)])),
    "nested arguments as a string": using(
        ask("find"), tell(None, tool_calls=[call("get_weather", json.dumps(NESTED))])
    ),
    "no arguments": using(ask("ping"), tell(None, tool_calls=[call("markPing", {})])),
    "no arguments as a string": using(
        ask("ping"), tell(None, tool_calls=[call("markPing", "")])
    ),
    "unicode arguments": using(
        ask("?"), tell(None, tool_calls=[call("get_weather", {"city": "markTromsø 🙂 \"q\" <b>"})])
    ),
    "large numbers": using(
        ask("?"), tell(None, tool_calls=[call("get_weather", '{"days": 12345678901234567890.5}')])
    ),
    "call with an index": using(
        ask("?"), tell(None, tool_calls=[{**OSLO, "index": 0}])
    ),
    "call that is context": using(
        ask("?"), tell(None, tool_calls=[OSLO], weight=0), answer("rain"), tell("markB")
    ),
    "documents": chat(
        ask("what?"), tell("markA"), documents=[{"title": "T", "text": "about <x>"}]
    ),
}  # fmt: skip
CONVERSATIONS: dict[str, Row] = {**_PLAIN, **_PARTS, **_REASONING, **_TOOLS}


def as_request(row: Row, through: int | None = None) -> Row:
    """The body of a request with the same history, as the API wants it.

    Args:
        through: messages that are sent; unset: all.
    """
    messages = [
        {
            name: value
            for name, value in message.items()
            if name != "weight" and (value is not None or name == "content")
        }
        for message in row["messages"][:through]
    ]
    for message in messages:
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [_write_call(each) for each in calls]
    names = ("tools", "documents", "chat_template_kwargs")
    return {"messages": messages, **{name: row[name] for name in names if name in row}}


def _write_call(each: Row) -> Row:
    arguments = each["function"]["arguments"]
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**each, "function": {**each["function"], "arguments": arguments}}


def list_marks(row: Row) -> set[str]:
    """The words that a model must learn from a row."""
    learned = [
        message
        for message in row["messages"]
        if message["role"] == "assistant" and message.get("weight") != 0
    ]
    words = json.dumps(learned, ensure_ascii=False).replace('"', " ").replace("\\", " ").split()
    return {word for word in words if word.startswith("mark")}
