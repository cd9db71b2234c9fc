from pathlib import Path
from typing import Any

import pytest

from foundry.engines.training.chat import ChatTokenizer, Example, prepare
from foundry.errors import InvalidArtifact, InvalidDataset, UnsupportedFeature
from tests.engines.training.conftest import CHATML, write_tokenizer

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo <b> é"},
    {"role": "user", "content": "more"},
    {"role": "assistant", "content": "ok"},
]
# A template of the kind that hides earlier reasoning from later turns.
FORGETFUL = CHATML.replace(
    "message['content']",
    "(message['content'] if loop.last else message['content'].split('|')[-1])",
)


@pytest.fixture
def tokenizer(tiny_model: Path) -> ChatTokenizer:
    return ChatTokenizer.load(tiny_model)


def _tokenizer_with(tmp_path: Path, template: str) -> ChatTokenizer:
    write_tokenizer(tmp_path, template)
    return ChatTokenizer.load(tmp_path)


def _trained_text(model_dir: Path, example: Example) -> str:
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    kept = [t for t, flag in zip(example.tokens, example.trained, strict=True) if flag]
    return str(reader.decode(kept, skip_special_tokens=False))


@pytest.mark.parametrize("generation_prompt", [False, True])
def test_tokens_equal_those_of_transformers(
    tiny_model: Path, tokenizer: ChatTokenizer, generation_prompt: bool
) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(tiny_model)
    text = tokenizer.render(TALK, add_generation_prompt=generation_prompt)
    options = {"add_generation_prompt": generation_prompt}
    assert text == reference.apply_chat_template(TALK, tokenize=False, **options)
    encoded = reference.apply_chat_template(TALK, tokenize=True, return_dict=True, **options)
    assert tokenizer.encode(text) == encoded["input_ids"]


def test_helpers_of_templates_behave_as_in_transformers(tmp_path: Path) -> None:
    template = (
        "{{ tools | tojson }}\n"
        "    {%- for m in messages %}\n{%- if m.content == 'stop' %}{%- break %}{%- endif %}"
        "[{{ m.content }}]{%- endfor %}{{ strftime_now('%Y')[:2] }}{{ eos_token }}"
    )
    from transformers import AutoTokenizer

    tokenizer = _tokenizer_with(tmp_path, template)
    messages = [{"role": "user", "content": text} for text in ("a<é", "stop", "b")]
    tools = [{"type": "function", "function": {"name": "f", "description": "<&>"}}]
    expected = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        messages, tools=tools, tokenize=False
    )
    assert tokenizer.render(messages, tools=tools) == expected
    assert expected.endswith("[a<é]20<|im_end|>")


def test_every_reply_is_trained_with_its_end_of_turn(
    tiny_model: Path, tokenizer: ChatTokenizer
) -> None:
    (example,) = tokenizer.chat_examples(TALK)
    assert _trained_text(tiny_model, example) == "yo <b> é<|im_end|>ok<|im_end|>"
    assert tokenizer.encode(tokenizer.render(TALK)) == list(example.tokens)


def test_a_turn_is_a_token_prefix_of_the_next(tokenizer: ChatTokenizer) -> None:
    (example,) = tokenizer.chat_examples(TALK)
    prompt = tokenizer.encode(tokenizer.render(TALK[:3], add_generation_prompt=True))
    assert list(example.tokens[: len(prompt)]) == prompt
    assert example.trained[len(prompt)] and not example.trained[len(prompt) - 1]


def test_weight_zero_leaves_a_reply_out(tiny_model: Path, tokenizer: ChatTokenizer) -> None:
    messages = [TALK[0], {**TALK[1], "weight": 0}, *TALK[2:]]
    (example,) = tokenizer.chat_examples(messages)
    assert _trained_text(tiny_model, example) == "ok<|im_end|>"
    assert tokenizer.chat_examples(TALK[:1]) == []


def test_rewritten_turns_become_one_example_per_reply(tmp_path: Path) -> None:
    tokenizer = _tokenizer_with(tmp_path, FORGETFUL)
    messages = [TALK[0], {"role": "assistant", "content": "why|yo"}, *TALK[2:]]
    first, second = tokenizer.chat_examples(messages)
    assert _trained_text(tmp_path, first) == "why|yo<|im_end|>"
    assert _trained_text(tmp_path, second) == "ok<|im_end|>"


def test_a_template_without_a_clear_reply_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}?{% endif %}"
    )
    with pytest.raises(UnsupportedFeature, match="ambiguous"):
        _tokenizer_with(tmp_path, template).chat_examples(TALK)


def test_templates_cannot_reach_the_interpreter(tmp_path: Path) -> None:
    for attack in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(InvalidDataset, match="template refuses"):
            _tokenizer_with(tmp_path, attack).render(TALK)


def test_a_broken_template_or_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match="chat template is broken"):
        _tokenizer_with(tmp_path, "{% for %}")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidArtifact, match="tokenizer"):
        ChatTokenizer.load(tmp_path)


def test_completions_are_trained_with_the_end_of_text(
    tiny_model: Path, tokenizer: ChatTokenizer
) -> None:
    prepared = prepare(
        [{"prompt": "2+2=", "completion": "4"}], tokenizer, max_seq_len=64, too_long="error"
    )
    assert _trained_text(tiny_model, prepared.examples[0]) == "4<|im_end|>"


def test_the_three_ways_with_a_long_row(tokenizer: ChatTokenizer) -> None:
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": "b" * 20},
        {"prompt": "a" * 20, "completion": "b"},
    ]
    with pytest.raises(InvalidDataset, match="row 2: 22 tokens exceed max_seq_len 8"):
        prepare(rows, tokenizer, max_seq_len=8, too_long="error")
    dropped = prepare(rows, tokenizer, max_seq_len=8, too_long="drop")
    assert (len(dropped.examples), dropped.dropped) == (1, 2)
    cut = prepare(rows, tokenizer, max_seq_len=8, too_long="truncate")
    assert [len(e.tokens) for e in cut.examples] == [3, 8]
    assert (cut.truncated, cut.dropped) == (2, 1)


@pytest.mark.parametrize("row", [{}, {"prompt": "a"}, {"messages": 3}, {"messages": [{"a": 1}]}])
def test_a_malformed_row_is_named(tokenizer: ChatTokenizer, row: dict[str, Any]) -> None:
    good = {"prompt": "a", "completion": "b"}
    with pytest.raises(InvalidDataset, match="row 2"):
        prepare([good, row], tokenizer, max_seq_len=64, too_long="error")
