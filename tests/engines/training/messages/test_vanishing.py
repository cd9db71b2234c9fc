"""Replies that a template drops are refused, by row and by part."""

from pathlib import Path
from typing import Any

import pytest

from foundry.engines.training.messages.rows import prepare, prepare_chat
from foundry.engines.training.messages.template import Context
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.errors import InvalidDataset
from tests.engines.training.conftest import write_tokenizer
from tests.engines.training.messages.conversations import (
    CLOCK,
    Row,
    answer,
    ask,
    call,
    chat,
    list_marks,
    tell,
    using,
)
from tests.engines.training.messages.conversations import CONVERSATIONS as ROWS
from tests.engines.training.messages.templates import CHATML, OWN_TEMPLATES

OSLO = call("get_time", {"city": "Oslo"})
HERMES = OWN_TEMPLATES["hermes"]


def _load(folder: Path, template: str) -> ChatTokenizer:
    write_tokenizer(folder, template)
    return ChatTokenizer.load(folder)


def _prepare(folder: Path, template: str, *rows: Row) -> Any:
    return prepare(rows, _load(folder, template), max_seq_len=100_000, too_long="error")


def test_tools_that_are_not_rendered_are_refused(tmp_path: Path) -> None:
    row = {**using(ask("Oslo?"), tell("", tool_calls=[OSLO])), "tools": [CLOCK]}
    with pytest.raises(InvalidDataset, match=r"^row 2: the chat template renders no tools, so .*"):
        _prepare(tmp_path, CHATML, chat(ask("a"), tell("b")), row)


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        (tell("", tool_calls=[OSLO]), r"tool_calls\[0\]"),
        (tell("here", tool_calls=[OSLO]), r"tool_calls\[0\]"),
        (tell("2", reasoning_content="add"), "reasoning"),
        (tell("2", reasoning="add"), "reasoning"),
    ],
)
def test_a_part_that_is_not_rendered_is_named(tmp_path: Path, reply: Row, part: str) -> None:
    with pytest.raises(InvalidDataset, match=rf"^row 1: messages\[1\]: {part} is not in the text"):
        _prepare(tmp_path, CHATML, chat(ask("Oslo?"), reply))


@pytest.mark.parametrize(
    ("template", "part"),
    [
        (HERMES.replace("tool_call.arguments | tojson", "'{}'"), "function.arguments"),
        (HERMES.replace("tool_call.name", "'f'"), "function.name"),
        (HERMES.replace("in message.tool_calls", "in message.tool_calls[:1]"), None),
    ],
)
def test_parts_of_calls_are_looked_for(tmp_path: Path, template: str, part: str | None) -> None:
    row = using(ask("?"), tell("", tool_calls=[OSLO, call("ping", {}, "call00002")]))
    place = r"tool_calls\[1\] is" if part is None else rf"tool_calls\[0\]\.{part} is"
    with pytest.raises(InvalidDataset, match=rf"messages\[1\]: {place}"):
        _prepare(tmp_path, template, row)


def test_content_beside_a_call_that_is_dropped_is_named(tmp_path: Path) -> None:
    row = using(ask("Oslo?"), tell("let me look", tool_calls=[OSLO]))
    with pytest.raises(InvalidDataset, match=r"row 1: messages\[1\]: content is not in the text"):
        _prepare(tmp_path, OWN_TEMPLATES["dated"], row)


def test_parts_of_a_content_are_looked_for(tmp_path: Path) -> None:
    first = OWN_TEMPLATES["parts"].replace("in message['content']", "in message['content'][:1]")
    looping = first + "{% for p in content or [] %}{% endfor %}"
    reply = tell([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    with pytest.raises(InvalidDataset, match=r"messages\[1\]: content\[1\] is not in the text"):
        _prepare(tmp_path, looping, chat(ask("x"), reply))


def test_what_lies_outside_the_tags_is_not_learned(tmp_path: Path) -> None:
    outside = OWN_TEMPLATES["tagged"].replace(
        "{% generation %}", "{{ m.reasoning_content or '' }}{% generation %}"
    )
    with pytest.raises(InvalidDataset, match="reasoning is not in the text"):
        _prepare(tmp_path, outside, chat(ask("1+1"), tell("2", reasoning_content="add")))


def test_a_reply_without_tags_is_refused(tmp_path: Path) -> None:
    first = OWN_TEMPLATES["tagged"].replace(
        "m.role == 'assistant'", "m.role == 'assistant' and loop.index0 < 2"
    )
    with pytest.raises(InvalidDataset, match=r"messages\[3\]: content is not in the text"):
        _prepare(tmp_path, first, ROWS["two turns"])


def test_what_is_not_trained_may_vanish(tmp_path: Path) -> None:
    row = chat(ask("?"), tell("", tool_calls=[OSLO], weight=0), answer("1"), tell("b"))
    assert len(_prepare(tmp_path, CHATML, row).examples) == 1


def test_reasoning_of_earlier_turns_is_learned_where_it_is_rendered(tmp_path: Path) -> None:
    tokenizer = _load(tmp_path, OWN_TEMPLATES["thinking"])
    first, second = prepare_chat(tokenizer, ROWS["reasoning in two turns"]["messages"])
    assert first.tokens != second.tokens[: len(first.tokens)]


@pytest.mark.parametrize("name", OWN_TEMPLATES)
def test_whatever_is_not_refused_is_learned(tmp_path: Path, name: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = _load(tmp_path, OWN_TEMPLATES[name])
    reader = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    prepared = 0
    for row in ROWS.values():
        context = Context(row.get("tools"), row.get("documents"), row.get("chat_template_kwargs"))
        try:
            examples = prepare_chat(tokenizer, row["messages"], context)
        except Exception as error:  # noqa: BLE001 - whichever: the row is not trained
            assert "messages" in str(error) or "tools" in str(error)
            continue
        prepared += 1
        learned = " ".join(
            reader.decode([t for t, w in zip(e.tokens, e.weights, strict=True) if w])
            for e in examples
        )
        assert [mark for mark in list_marks(row) if mark not in learned] == []
    assert prepared > 30


def test_a_template_that_insists_on_a_part_has_it(tmp_path: Path) -> None:
    strict = CHATML.replace(
        "{{ '<|im_start|>' +",
        "{% if not message.content %}{{ raise_exception('empty') }}{% endif %}{{ '<|im_start|>' +",
    )
    assert len(_prepare(tmp_path, strict, chat(ask("a"), tell("b"))).examples) == 1
