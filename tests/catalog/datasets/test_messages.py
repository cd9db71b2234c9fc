"""What a message may hold: whatever is accepted here is rendered by training, or refused there."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foundry.catalog.datasets.domain import AddOptions
from foundry.catalog.datasets.preparation import prepare
from foundry.catalog.datasets.shards import encode_row, read_rows
from foundry.catalog.datasets.validation import clean_row, find_faults
from foundry.engines.training.messages.rows import prepare as tokenise
from foundry.engines.training.messages.shape import list_uses
from foundry.engines.training.messages.template import ChatTemplate, Context
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.errors import InvalidDataset, UnsupportedFeature
from tests.engines.training.conftest import write_tokenizer
from tests.engines.training.messages.conversations import CONVERSATIONS
from tests.engines.training.messages.templates import OWN_TEMPLATES

ASK = {"role": "user", "content": "hi"}
TELL = {"role": "assistant", "content": "hello"}
TEXT = {"type": "text", "text": "a"}


def _chat(*messages: object, **fields: object) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


def _call(function: object, **fields: object) -> dict[str, Any]:
    calls = [{"id": "c1", "function": function, **fields}]
    return _chat(ASK, {"role": "assistant", "content": None, "tool_calls": calls})


def _arguments(value: object) -> dict[str, Any]:
    return _call({"name": "f", "arguments": value})


def _tool(function: object) -> dict[str, Any]:
    return _chat(ASK, TELL, tools=[{"type": "function", "function": function}])


CALL = "messages[1].tool_calls[0]"
GOOD = [
    _arguments('{"a": 1}'),
    _arguments({"a": 1}),
    _arguments(""),
    _arguments(None),
    _call({"name": "f"}, type="function", index=0),
    _chat({"role": "developer", "content": "x"}, ASK, TELL),
    _chat({"role": "system", "content": "x"}, {"role": "developer", "content": "y"}, ASK, TELL),
    _chat(ASK, {**TELL, "content": [TEXT, {"type": "refusal", "refusal": "b"}]}),
    _chat({**ASK, "content": [TEXT], "thinking": None}, TELL),
    _chat(ASK, {**TELL, "weight": 0.5}),
    _chat({**ASK, "weight": 0}, {**TELL, "weight": 2}),
    _chat(ASK, {**TELL, "content": "", "reasoning_content": "so"}),
    _chat(ASK, {**TELL, "reasoning": "so", "reasoning_content": "so"}),
    _chat(ASK, TELL, documents=[{"title": "t"}], chat_template_kwargs={"enable_thinking": False}),
    _tool({"name": "f", "description": None, "parameters": None}),
    _chat(ASK, TELL, tools=None, source="somewhere"),
]
BAD: list[tuple[dict[str, Any], str, str]] = [
    (_arguments("{"), f"{CALL}.function.arguments", "wrong_type"),
    (_arguments("[1]"), f"{CALL}.function.arguments", "wrong_type"),
    (_arguments([1]), f"{CALL}.function.arguments", "wrong_type"),
    (_arguments(3), f"{CALL}.function.arguments", "wrong_type"),
    (_call(None), f"{CALL}.function", "missing_field"),
    (_call("f"), f"{CALL}.function", "wrong_type"),
    (_call({}), f"{CALL}.function.name", "missing_field"),
    (_call({"name": 3}), f"{CALL}.function.name", "wrong_type"),
    (_call({"name": "f"}, type="custom"), f"{CALL}.type", "wrong_type"),
    (_chat({**ASK, "tool_calls": [{"function": {"name": "f"}}]}, TELL),
     "messages[0].tool_calls", "unknown_field"),
    (_chat(ASK, {**TELL, "content": ["x"]}), "messages[1].content[0]", "wrong_type"),
    (_chat(ASK, {**TELL, "content": [{"text": "a"}]}), "messages[1].content[0].type",
     "missing_field"),
    (_chat({**ASK, "content": [{"type": "image_url", "image_url": {}}]}, TELL),
     "messages[0].content[0].type", "wrong_type"),
    (_chat(ASK, {**TELL, "content": [{"type": "text"}]}), "messages[1].content[0].text",
     "wrong_type"),
    (_chat(ASK, {**TELL, "content": [{**TEXT, "cache_control": {}}]}),
     "messages[1].content[0].cache_control", "unknown_field"),
    (_chat(ASK, {**TELL, "content": 3}), "messages[1].content", "wrong_type"),
    (_chat(ASK, {**TELL, "weight": "1"}), "messages[1].weight", "wrong_type"),
    (_chat(ASK, {**TELL, "weight": True}), "messages[1].weight", "wrong_type"),
    (_chat(ASK, {**TELL, "weight": -0.5}), "messages[1].weight", "wrong_type"),
    (_chat(ASK, {**TELL, "weight": 10**400}), "messages[1].weight", "wrong_type"),
    (_chat(ASK, {**TELL, "weight": 1e39}), "messages[1].weight", "wrong_type"),
    (_chat(ASK, {**TELL, "weight": 1e-60}), "messages[1].weight", "wrong_type"),
    (_chat(ASK, {**TELL, "weight": float("inf")}), "messages[1].weight", "non_finite"),
    (_chat({**ASK, "weight": 1}, TELL), "messages[0].weight", "unknown_field"),
    (_chat(ASK, {**TELL, "reasoning": 3}), "messages[1].reasoning", "wrong_type"),
    (_chat({**ASK, "reasoning": "x"}, TELL), "messages[0].reasoning", "unknown_field"),
    (_chat(ASK, {**TELL, "reasoning": "a", "reasoning_content": "b"}),
     "messages[1].reasoning_content", "wrong_type"),
    (_chat(ASK, {**TELL, "thinking": "so"}), "messages[1].thinking", "unknown_field"),
    (_chat(ASK, {**TELL, "function_call": {}}), "messages[1].function_call", "unknown_field"),
    (_chat(ASK, {**TELL, "prefix": True}), "messages[1].prefix", "unknown_field"),
    (_chat({**ASK, "name": 3}, TELL), "messages[0].name", "wrong_type"),
    (_tool(None), "tools[0].function", "missing_field"),
    (_tool({"description": "x"}), "tools[0].function.name", "missing_field"),
    (_tool({"name": "f", "parameters": []}), "tools[0].function.parameters", "wrong_type"),
    (_tool({"name": "f", "description": 3}), "tools[0].function.description", "wrong_type"),
    (_chat(ASK, TELL, tools=["f"]), "tools[0].function", "missing_field"),
    (_chat(ASK, TELL, functions=[{}]), "functions", "unknown_field"),
    (_chat(ASK, TELL, documents=["x"]), "documents", "wrong_type"),
    (_chat(ASK, TELL, chat_template_kwargs=[]), "chat_template_kwargs", "wrong_type"),
    (_chat(ASK, TELL, chat_template_kwargs={"tools": []}), "chat_template_kwargs.tools",
     "unknown_field"),
    (_chat(ASK, {**TELL, "content": [{**TEXT, "text": " "}]}), "messages", "empty_target"),
]  # fmt: skip


@pytest.mark.parametrize("row", GOOD)
def test_what_a_request_may_hold_is_accepted(row: dict[str, Any]) -> None:
    assert list(find_faults(row, "chat")) == []


@pytest.mark.parametrize(("row", "path", "code"), BAD)
def test_what_would_be_lost_or_refused_is_named(row: dict[str, Any], path: str, code: str) -> None:
    assert [(place, kind) for place, kind, _ in find_faults(row, "chat")] == [(path, code)]


def _store(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    folder.mkdir()
    (folder / "in").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    prepared = prepare(folder / "in", folder, AddOptions(eval_fraction=0))
    (train,) = [file for file in prepared.files if file.path.startswith("train")]
    (stored,) = read_rows(train.local)
    return stored


def test_what_is_stored_renders_as_what_was_written(tmp_path: Path) -> None:
    templates = [ChatTemplate(OWN_TEMPLATES[name], {}) for name in ("hermes", "thinking", "parts")]
    for number, row in enumerate(CONVERSATIONS.values()):
        stored = _store(row, tmp_path / str(number))
        for template in templates:
            texts = [
                template.render(
                    template.prepare(each["messages"]),
                    Context(
                        each.get("tools"), each.get("documents"), each.get("chat_template_kwargs")
                    ),
                ).text
                for each in (row, stored)
            ]
            assert texts[0] == texts[1]


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2.5, "", "{", "[]", '{"a":1}', [], {}, ["x"], [None], {"a": 1}, [[]], "tool",
    [{"type": "text", "text": "z"}], "\ud800", {"role": "user", "content": "x"}, "developer",
)  # fmt: skip


def _list_places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a row with a key or an index into it."""
    places = list(value) if isinstance(value, dict) else range(len(value))
    for place in places:
        yield value, place
        if isinstance(value[place], dict | list):
            yield from _list_places(value[place])


def test_whatever_is_accepted_is_rendered_or_refused_by_its_place(tmp_path: Path) -> None:
    draw = random.Random(0)
    write_tokenizer(tmp_path, OWN_TEMPLATES["thinking"])
    tokenizer = ChatTokenizer.load(tmp_path)
    usual = [row for name, row in CONVERSATIONS.items() if "long" not in name]
    accepted = 0
    for _ in range(2500):
        row = copy.deepcopy(draw.choice(usual))
        container, place = draw.choice(list(_list_places(row)))
        container[place] = copy.deepcopy(draw.choice(ODD))
        if "messages" not in row or list(find_faults(row, "chat")):
            continue
        accepted += 1
        try:
            stored = json.loads(encode_row(clean_row(row, "chat")))
            tokenise([stored], tokenizer, max_seq_len=10**6, too_long="error")
        except InvalidDataset as error:
            assert "expected messages" not in error.message
        except UnsupportedFeature as error:
            assert "ambiguous" in error.message
    assert accepted > 300


def test_reasoning_and_the_order_of_keys_are_kept(tmp_path: Path) -> None:
    row = _chat(ASK, {**TELL, "reasoning_content": "add them"})
    assert _store(row, tmp_path / "a")["messages"][1]["reasoning_content"] == "add them"
    stored = _store(_arguments({"b": 1, "a": {"d": 2, "c": 3}}), tmp_path / "b")
    arguments = stored["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert list(arguments) == ["b", "a"] and list(arguments["a"]) == ["d", "c"]


def test_nulls_and_what_training_does_not_read_are_not_stored() -> None:
    row = _chat({**ASK, "name": None}, {**TELL, "tool_calls": None}, tools=[], source="x")
    assert clean_row(row, "chat") == {"messages": [ASK, TELL]}


def test_what_rows_have_beside_text_is_counted(tmp_path: Path) -> None:
    call = _arguments("{}")["messages"][1]
    seen = {
        "tools": _tool({"name": "f"}),
        "tool_calls": _chat(ASK, call),
        "reasoning": _chat(ASK, {**TELL, "reasoning": "so"}),
    }
    for name, row in seen.items():
        assert list_uses(row) == {name}
    unlearned = _chat(ASK, {**call, "weight": 0}, {"role": "tool", "content": "1"}, TELL)
    assert list_uses(unlearned) == set()
    assert list_uses({"prompt": "a", "completion": "b"}) == set()


def test_a_refusal_names_row_and_place(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"row 1: messages\[1\]\.tool_calls\[0\]\.function\."):
        _store(_arguments("{"), tmp_path / "a")
