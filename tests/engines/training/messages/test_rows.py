from pathlib import Path
from typing import Any

import pytest

from foundry.engines.training.messages.rows import prepare, prepare_chat
from foundry.engines.training.messages.targets import Example
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.errors import InvalidDataset, UnsupportedFeature
from tests.engines.training.conftest import CHATML, write_tokenizer
from tests.engines.training.messages.templates import OWN_TEMPLATES

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


def test_every_reply_is_trained_with_its_end_of_turn(
    tiny_model: Path, tokenizer: ChatTokenizer
) -> None:
    (example,) = prepare_chat(tokenizer, TALK)
    assert _trained_text(tiny_model, example) == "yo <b> é<|im_end|>ok<|im_end|>"
    assert tokenizer.encode(tokenizer.render(TALK)) == list(example.tokens)


def test_a_turn_is_a_token_prefix_of_the_next(tokenizer: ChatTokenizer) -> None:
    (example,) = prepare_chat(tokenizer, TALK)
    prompt = tokenizer.encode(tokenizer.render(TALK[:3], add_generation_prompt=True))
    assert list(example.tokens[: len(prompt)]) == prompt
    assert example.trained[len(prompt)] and not example.trained[len(prompt) - 1]


def test_weight_zero_leaves_a_reply_out(tiny_model: Path, tokenizer: ChatTokenizer) -> None:
    messages = [TALK[0], {**TALK[1], "weight": 0}, *TALK[2:]]
    (example,) = prepare_chat(tokenizer, messages)
    assert _trained_text(tiny_model, example) == "ok<|im_end|>"
    assert prepare_chat(tokenizer, TALK[:1]) == []


def test_a_weight_scales_a_reply(tokenizer: ChatTokenizer) -> None:
    messages = [TALK[0], {**TALK[1], "weight": 0.25}, *TALK[2:]]
    (example,) = prepare_chat(tokenizer, messages)
    (plain,) = prepare_chat(tokenizer, TALK)
    assert example.tokens == plain.tokens and example.trained == plain.trained
    assert set(example.weights) == {0.0, 0.25, 1.0}
    assert example.weights.count(0.25) == len("yo <b> \u00e9".encode()) + 1


def test_arguments_are_learned_as_objects(tmp_path: Path) -> None:
    call = {"id": "c1", "function": {"name": "get_time", "arguments": '{"city": "Oslo"}'}}
    rows = [{"messages": [TALK[0], {"role": "assistant", "content": c, "tool_calls": [call]}]}
            for c in (None, "")]  # fmt: skip
    rows.append({"messages": [TALK[0], {"role": "assistant", "tool_calls": [call]}]})
    tokenizer = _tokenizer_with(tmp_path, OWN_TEMPLATES["hermes"])
    examples = prepare(rows, tokenizer, max_seq_len=512, too_long="error").examples
    assert len({example.tokens for example in examples}) == 1
    learned = _trained_text(tmp_path, examples[0])
    assert learned.count('"arguments": {"city": "Oslo"}') == 1


def test_a_template_with_tags_says_what_is_learned(tmp_path: Path) -> None:
    tagged = OWN_TEMPLATES["tagged"].replace(
        "m.content + '<|im_end|>' }}{% endgen", "m.content }}{% endgen"
    )
    tokenizer = _tokenizer_with(tmp_path, tagged)
    messages = [TALK[0], {**TALK[1], "weight": 0}, TALK[2], {**TALK[3], "weight": 2}]
    (example,) = prepare_chat(tokenizer, messages)
    assert _trained_text(tmp_path, example) == "ok"
    assert set(example.weights) == {0.0, 2.0}


def test_rewritten_turns_become_one_example_per_reply(tmp_path: Path) -> None:
    tokenizer = _tokenizer_with(tmp_path, FORGETFUL)
    messages = [TALK[0], {"role": "assistant", "content": "why|yo"}, *TALK[2:]]
    first, second = prepare_chat(tokenizer, messages)
    assert _trained_text(tmp_path, first) == "why|yo<|im_end|>"
    assert _trained_text(tmp_path, second) == "ok<|im_end|>"


def test_a_template_without_a_clear_reply_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}?{% endif %}"
    )
    with pytest.raises(UnsupportedFeature, match="ambiguous"):
        prepare_chat(_tokenizer_with(tmp_path, template), TALK)


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


def test_the_split_of_a_row_is_named(tokenizer: ChatTokenizer) -> None:
    with pytest.raises(InvalidDataset, match=r"^row 1 of the eval split: expected messages"):
        prepare([{}], tokenizer, max_seq_len=9, too_long="drop", split="eval")
    with pytest.raises(InvalidDataset, match=r"^row 1 of the eval split: 3 tokens exceed"):
        row = {"prompt": "a", "completion": "b"}
        prepare([row], tokenizer, max_seq_len=2, too_long="error", split="eval")
