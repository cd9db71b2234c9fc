"""Rendering, against transformers' own, and what a template may not do."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from foundry.engines.training.messages.conversation import prepare_tools
from foundry.engines.training.messages.template import ChatTemplate, Context
from foundry.errors import InvalidArtifact, InvalidDataset
from tests.engines.training.conftest import write_tokenizer
from tests.engines.training.messages.conversations import CONVERSATIONS, Row
from tests.engines.training.messages.templates import OWN_TEMPLATES, TAGGED

TALK = [{"role": "user", "content": "hi"}]
HELPERS = (
    "{{ tools | tojson }}\n"
    "    {%- for m in messages %}\n{%- if m.content == 'stop' %}{%- break %}{%- endif %}"
    "[{{ m.content }}]{%- endfor %}{{ strftime_now('%Y')[:2] }}{{ eos_token }}"
    "{{ dict(a=1) | tojson(indent=2, sort_keys=true) }}{{ dict.fromkeys(['k'], 2) }}"
    "{% set ns = namespace(self=1, x=2) %}{% set ns.x = 3 %}{{ ns.x }}"
)
SPECIAL = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("reference")
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def _list_renderings() -> Iterator[tuple[Row, int, bool]]:
    for row in CONVERSATIONS.values():
        for index, message in enumerate(row["messages"]):
            if message["role"] == "assistant":
                yield row, index, True
        yield row, len(row["messages"]), False


@pytest.mark.parametrize("name", OWN_TEMPLATES)
def test_every_conversation_renders_as_in_transformers(name: str, reference: Any) -> None:
    source = OWN_TEMPLATES[name]
    template = ChatTemplate(source, SPECIAL, datetime.now())
    for row, through, prompt in _list_renderings():
        messages = template.prepare(row["messages"][:through])
        kwargs = row.get("chat_template_kwargs", {})
        context = Context(row.get("tools"), row.get("documents"), kwargs)
        try:
            ours = template.render(messages, context, add_generation_prompt=prompt).text
        except InvalidDataset:
            ours = None
        try:
            theirs = reference.apply_chat_template(
                messages,
                chat_template=source,
                tools=prepare_tools(row.get("tools")),
                documents=row.get("documents"),
                add_generation_prompt=prompt,
                tokenize=False,
                **kwargs,
            )
        except Exception:  # noqa: BLE001 - whatever a template raises
            theirs = None
        assert ours == theirs


def test_helpers_of_templates_behave_as_in_transformers(reference: Any) -> None:
    messages = [{"role": "user", "content": text} for text in ("a<é", "stop", "b")]
    tools = [{"type": "function", "function": {"name": "f", "description": "<&>"}}]
    expected = reference.apply_chat_template(
        messages, chat_template=HELPERS, tools=prepare_tools(tools), tokenize=False
    )
    assert ChatTemplate(HELPERS, SPECIAL).render(messages, Context(tools)).text == expected
    assert "[a<é]20<|im_end|>" in expected


def test_generation_tags_print_nothing_and_are_found(reference: Any) -> None:
    template = ChatTemplate(TAGGED, SPECIAL)
    messages = [*TALK, {"role": "assistant", "content": "yo é"}] * 2
    rendering = template.render(messages)
    bare = re.sub(r"{% (end)?generation %}", "", TAGGED)
    assert template.marks_replies and not ChatTemplate(bare, SPECIAL).marks_replies
    assert rendering.text == ChatTemplate(bare, SPECIAL).render(messages).text
    assert [rendering.text[a:b] for a, b in rendering.generated] == ["yo é<|im_end|>"] * 2
    assert rendering.text == reference.apply_chat_template(
        messages, chat_template=TAGGED, tokenize=False
    )


def test_a_template_is_told_the_runs_date() -> None:
    template = ChatTemplate(
        "{{ strftime_now('%d %b %Y %H:%M%z') }}", {}, datetime(2026, 2, 3, 4, 5, tzinfo=UTC)
    )
    assert template.render(TALK).text == "03 Feb 2026 04:05"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace.__init__ }}{{ namespace(_x=1) }}",
        "{{ dict.__init__.__globals__ }}",
        "{{ strftime_now.__globals__.x }}",
        "{{ raise_exception('no') }}",
        "{{ 1 // 0 }}",
        "{{ strftime_now(3) }}",
        "{{ messages[0].content + 1 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_can_reach_nothing_and_fails_by_name(attack: str) -> None:
    with pytest.raises(InvalidDataset, match="the chat template refuses the messages"):
        ChatTemplate(attack, {}).render(TALK)


def test_rendering_changes_no_row() -> None:
    row = CONVERSATIONS["call with string arguments"]
    before = repr(row)
    template = ChatTemplate(OWN_TEMPLATES["hermes"], SPECIAL)
    template.render(template.prepare(row["messages"]), Context(row["tools"]))
    assert repr(row) == before


@pytest.mark.parametrize("source", ["{% for %}", "{{ x", "{% generation %}", "{% nothing %}"])
def test_a_broken_template_is_named(source: str) -> None:
    with pytest.raises(InvalidArtifact, match="the chat template is broken"):
        ChatTemplate(source, {})


def test_a_rows_variables_win_over_special_tokens(reference: Any) -> None:
    source, kwargs = "{{ eos_token }}{{ x is defined }}", {"eos_token": "!", "x": None}
    ours = ChatTemplate(source, SPECIAL).render(TALK, Context(kwargs=kwargs)).text
    assert (
        ours
        == "!True"
        == reference.apply_chat_template(TALK, chat_template=source, tokenize=False, **kwargs)
    )
