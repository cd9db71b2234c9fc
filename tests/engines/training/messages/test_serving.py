"""Training's renderings against those of the installed vLLM, text and tokens; no engine runs.

Importing vLLM takes half a minute, so this is no fast test; `make bench NAME=messages` compares
with the templates that packages ship.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from foundry.engines.training.messages.template import Context
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.errors import InvalidDataset
from tests.engines.training.messages.conversations import CONVERSATIONS, Row
from tests.engines.training.messages.served import ServedRenderer, write_served_model
from tests.engines.training.messages.templates import OWN_TEMPLATES

# What the import of vLLM warns of is not ours.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]
NAMED = [
    {"name": "default", "template": OWN_TEMPLATES["parts"]},
    {"name": "tool_use", "template": OWN_TEMPLATES["hermes"]},
]


def _list_prompts(row: Row) -> Iterator[tuple[int | None, bool]]:
    for index, message in enumerate(row["messages"]):
        if message["role"] == "assistant":
            yield index, True
    yield None, False


def _render(tokenizer: ChatTokenizer, row: Row, through: int | None, prompt: bool) -> str | None:
    context = Context(row.get("tools"), row.get("documents"), row.get("chat_template_kwargs"))
    try:
        messages = row["messages"][:through]
        return tokenizer.render(messages, context, add_generation_prompt=prompt)
    except InvalidDataset:
        return None


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    write_served_model(folder, chat_template=NAMED)
    return folder


@pytest.fixture(scope="module")
def served(named: Path) -> Iterator[ServedRenderer]:
    renderer = ServedRenderer(named)
    yield renderer
    renderer.close()


def _compare(tokenizer: ChatTokenizer, served: ServedRenderer, template: str | None) -> int:
    compared = 0
    for name, row in CONVERSATIONS.items():
        for through, prompt in _list_prompts(row):
            ours = _render(tokenizer, row, through, prompt)
            theirs = served.render(row, through, template, prompt=prompt)
            expected = None if ours is None else (ours, tokenizer.encode(ours))
            assert theirs == expected, name
            compared += ours is not None
    return compared


@pytest.mark.parametrize("name", OWN_TEMPLATES)
def test_every_history_renders_as_it_is_served(
    tmp_path: Path, served: ServedRenderer, name: str
) -> None:
    write_served_model(tmp_path, chat_template=OWN_TEMPLATES[name])
    tokenizer = ChatTokenizer.load(tmp_path, datetime.now())
    assert _compare(tokenizer, served, OWN_TEMPLATES[name]) > 100


def test_named_templates_are_chosen_as_in_serving(named: Path, served: ServedRenderer) -> None:
    assert _compare(ChatTokenizer.load(named), served, None) > 100
