"""What a template is given for a row; `test_serving` and the bench ask vLLM for the same."""

from typing import Any

import pytest

from foundry.engines.training.messages.conversation import (
    ContentFormat,
    prepare_messages,
    prepare_tools,
)
from foundry.errors import InvalidDataset

USER = {"role": "user", "content": "hi"}


def _prepare(*messages: Any, form: ContentFormat = "string", developer: bool = False) -> Any:
    return prepare_messages(messages, form, knows_developer=developer)


def _call(arguments: object, **fields: object) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "c1", "function": function, **fields}]}


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"city": "Oslo"}', {"city": "Oslo"}),
        ({"city": "Oslo"}, {"city": "Oslo"}),
        ('{"b": 1, "a": [null]}', {"b": 1, "a": [None]}),
        ("", {}),
        (None, {}),
        ({}, {}),
        ("{}", {}),
    ],
)
def test_arguments_become_an_object(arguments: object, given: dict[str, Any]) -> None:
    (message,) = _prepare(_call(arguments))
    function = message["tool_calls"][0]["function"]
    assert function["arguments"] == given
    assert list(function) == ["arguments", "name"]
    assert list(message["tool_calls"][0]) == ["id", "function", "type"]


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", '"x"', "null", '{"a": NaN}', [], 3, True])
def test_arguments_that_are_no_object_are_refused_by_place(arguments: object) -> None:
    with pytest.raises(InvalidDataset, match=r"^messages\[1\]\.tool_calls\[0\]\.function\.arg"):
        _prepare(USER, _call(arguments))


def test_a_missing_type_is_filled_and_other_fields_follow() -> None:
    (message,) = _prepare(_call("{}", index=0))
    assert list(message["tool_calls"][0].items())[2:] == [("type", "function"), ("index", 0)]


@pytest.mark.parametrize(
    ("content", "text", "parts"),
    [
        ("a", "a", ["a"]),
        ("", "", [""]),
        (None, "", []),
        ([], "", []),
        ([{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}], "a\nb", ["a", "b"]),
        ([{"type": "text", "text": ""}, {"type": "text", "text": "b"}], "b", ["", "b"]),
    ],
)
def test_content_is_text_or_parts(content: object, text: str, parts: list[str]) -> None:
    message = {"role": "user", "content": content}
    assert _prepare(message)[0]["content"] == text
    given = _prepare(message, form="parts")[0]["content"]
    assert given == [{"type": "text", "text": each} for each in parts]


def test_answers_of_tools_are_always_text() -> None:
    answer = {"role": "tool", "tool_call_id": 7, "content": [{"type": "text", "text": "a"}] * 2}
    assert _prepare(answer, form="parts") == [
        {"role": "tool", "content": "a\na", "tool_call_id": "7"}
    ]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_has_every_name(field: str) -> None:
    (message,) = _prepare({"role": "assistant", "content": "2", field: "add"})
    assert message == {
        "thinking": "add", "role": "assistant", "content": "2", "reasoning": "add",
        "reasoning_content": "add",
    }  # fmt: skip
    assert next(iter(message)) == "thinking"


def test_fields_that_no_request_has_do_not_reach_the_template() -> None:
    (message,) = _prepare({"role": "user", "content": "a", "weight": 1, "x": 2, "name": None})
    assert message == USER | {"content": "a"}


def test_a_developer_is_the_system_where_the_template_knows_none() -> None:
    system = {"role": "system", "content": "a"}
    developer = {"role": "developer", "content": "b"}
    assert _prepare(system, developer, USER)[:-1] == [{"role": "system", "content": "a\n\nb"}]
    assert _prepare(developer, USER) == [{"role": "system", "content": "b"}, USER]
    assert _prepare(USER, developer)[0] == {"role": "system", "content": "b"}
    assert _prepare(system, developer, USER, developer=True) == [system, developer, USER]
    (merged, _) = _prepare(system, developer, USER, form="parts")
    assert merged == {"role": "system", "content": "a\n\nb"}


def test_tools_have_the_fields_of_requests() -> None:
    tools: list[dict[str, Any]] = [
        {"function": {"parameters": {"b": 1, "a": 2}, "name": "f", "strict": True, "x": 1}, "y": 2},
        {"type": "function", "function": {"name": "g"}},
    ]
    prepared = prepare_tools(tools)
    assert prepared == [
        {"type": "function", "function": {
            "name": "f", "description": None, "parameters": {"b": 1, "a": 2}, "strict": True}},
        {"type": "function", "function": {"name": "g", "description": None, "parameters": None}},
    ]  # fmt: skip
    assert list(prepared[0]["function"]) == ["name", "description", "parameters", "strict"]
    assert prepare_tools([]) is None and prepare_tools(None) is None
