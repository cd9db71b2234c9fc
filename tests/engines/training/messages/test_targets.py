"""Where the prompt ends and a reply begins, in tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from foundry.engines.training.messages.rows import prepare_chat
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from tests.engines.training.conftest import write_tokenizer

# The prompt ends in a space, which a tokenizer would rather put into the reply's first token.
SPACED = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "so"},
    {"role": "assistant", "content": "yes", "weight": 0.5},
]


@pytest.fixture
def tokenizer(tmp_path: Path) -> ChatTokenizer:
    write_tokenizer(tmp_path, SPACED)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["Ġy"] = len(document["model"]["vocab"])
    document["model"]["merges"] = [["Ġ", "y"]]
    path.write_text(json.dumps(document))
    return ChatTokenizer.load(tmp_path)


def test_a_token_over_the_border_does_not_hide_the_reply(tokenizer: ChatTokenizer) -> None:
    assert len(tokenizer.encode(" y")) == 1
    examples = prepare_chat(tokenizer, TALK)
    for example, index in zip(examples, (1, 3), strict=True):
        prompt = tokenizer.encode(tokenizer.render(TALK[:index], add_generation_prompt=True))
        assert list(example.tokens[: len(prompt)]) == prompt
        learned = [t for t, weight in zip(example.tokens, example.weights, strict=True) if weight]
        assert learned == [*tokenizer.encode(TALK[index]["content"]), 2]
        assert not any(example.weights[: len(prompt)]) and example.weights[-1] == 0
    assert set(examples[1].weights) == {0.0, 0.5}


def test_replies_whose_border_is_free_stay_together(tokenizer: ChatTokenizer) -> None:
    free = [message | {"content": "no"} for message in TALK]
    assert len(prepare_chat(tokenizer, free)) == 1


def test_a_continuation_begins_with_what_it_says(tokenizer: ChatTokenizer) -> None:
    for text in ("yo", " yo", "\nyo", "", "é"):
        assert tokenizer.encode_continuation(text) == tokenizer.encode(text)
