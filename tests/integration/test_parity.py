"""What the engine answers is what transformers and peft compute."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import torch
from openai.types.chat.chat_completion import Choice
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from foundry.catalog.registry.service import load_manifest
from foundry.config import Settings
from foundry.infra.wiring import open_database, open_weights
from tests.integration.conftest import Stack
from workflows.demo import BASE, DATASET, MODEL

pytestmark = pytest.mark.engine

PROMPTS, TOKENS, ATOL = 20, 16, 2e-3
# Of so many prompts the log probabilities are compared as well.
MEASURED = 5
_LOGPROBS: dict[str, Any] = {"logprobs": True, "top_logprobs": 5}


class Reference:
    """Base and adapter in transformers and peft, float32, from the registry's own files."""

    def __init__(self, base: Path, adapter: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        self._model = PeftModel.from_pretrained(loaded, adapter).eval()

    def answer(self, model: str, messages: list[dict[str, str]]) -> tuple[str, torch.Tensor]:
        """Greedy text, and log probabilities of shape (tokens, vocabulary)."""
        inputs = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        if model == BASE:
            with self._model.disable_adapter():
                return self._generate(inputs)
        return self._generate(inputs)

    @torch.inference_mode()
    def _generate(self, inputs: Any) -> tuple[str, torch.Tensor]:
        made = self._model.generate(
            **inputs,
            max_new_tokens=TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = made.sequences[0, inputs["input_ids"].shape[1] :]
        text = self._tokenizer.decode(new, skip_special_tokens=True)
        return text, torch.cat(made.logits).float().log_softmax(-1)

    def token_id(self, text: bytes) -> int:
        ids = self._tokenizer.encode(text.decode(), add_special_tokens=False)
        return int(ids[0]) if len(ids) == 1 else -1


@pytest.fixture(scope="module")
def reference(stack: Stack) -> Reference:
    with stack.client() as client:
        ids = [next(row.id for row in client.models.versions(name).data) for name in (BASE, MODEL)]
    base, adapter = asyncio.run(_directories(stack.home, ids))
    return Reference(base, adapter)


async def _directories(home: Path, ids: Sequence[UUID]) -> list[Path]:
    settings = Settings(home=home)
    weights = open_weights(settings)
    async with open_database(settings) as database:
        manifests = [await load_manifest(database, version_id) for version_id in ids]
    return [await weights.ensure(manifest.digest, manifest.files) for manifest in manifests]


@pytest.fixture(scope="module")
def prompts(stack: Stack) -> list[list[dict[str, str]]]:
    with stack.client() as client:
        rows = client.datasets.rows(DATASET, 1, split="eval", limit=PROMPTS).data
    return [row["messages"][:-1] for row in rows]  # type: ignore[index]


@dataclass(frozen=True, slots=True)
class Answered:
    """What the engine said, and beside it what transformers and peft say.

    Attributes:
        choices: of the engine, one for each prompt; the first ones with log probabilities.
        expected: text, and log probabilities of shape (tokens, vocabulary).
    """

    choices: Sequence[Choice]
    expected: Sequence[tuple[str, torch.Tensor]]


@pytest.fixture(scope="module", params=[BASE, f"{MODEL}@production"])
def answered(
    request: pytest.FixtureRequest, stack: Stack, reference: Reference, prompts: list[Any]
) -> Answered:
    """Each prompt once through the engine and once through transformers."""
    assert len(prompts) == PROMPTS
    model = request.param
    choices = []
    with stack.openai() as client:
        for number, messages in enumerate(prompts):
            answer = client.chat.completions.create(
                model=model,
                messages=messages,
                max_tokens=TOKENS,
                temperature=0,
                **_LOGPROBS if number < MEASURED else {},
            )
            choices.append(answer.choices[0])
    return Answered(choices, [reference.answer(model, messages) for messages in prompts])


def test_greedy_answers_equal_those_of_transformers(answered: Answered) -> None:
    texts = [choice.message.content for choice in answered.choices]
    assert texts == [text for text, _ in answered.expected]


def test_log_probabilities_equal_those_of_peft(answered: Answered, reference: Reference) -> None:
    compared = 0
    pairs = zip(answered.choices, answered.expected, strict=True)
    for choice, (_, expected) in islice(pairs, MEASURED):
        found = choice.logprobs
        assert found is not None and found.content is not None
        for position, token in enumerate(found.content):
            for other in token.top_logprobs:
                token_id = reference.token_id(bytes(other.bytes or []))
                if token_id >= 0:
                    wanted = expected[position, token_id].item()
                    assert other.logprob == pytest.approx(wanted, abs=ATOL)
                    compared += 1
    assert compared > 100
