"""`make bench NAME=messages`: what training renders, against vLLM and transformers themselves.

Conversations of every shape x chat templates that packages ship. Compared are the prompt before
every reply and the whole history, text and tokens, with vLLM's request models, preparation and
renderer (no engine runs), and with `apply_chat_template` of transformers. Where those two disagree,
training follows vLLM, and the reason is counted. Then every conversation is prepared for training:
whatever was not refused must have learned every part of every reply.
"""

import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from foundry.config import load_settings
from foundry.engines.training.messages.conversation import prepare_tools
from foundry.engines.training.messages.rows import prepare_chat
from foundry.engines.training.messages.targets import Example
from foundry.engines.training.messages.template import ChatTemplate, Context
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.errors import FoundryError, InvalidArtifact
from tests.bench.chat_templates import collect_templates
from tests.engines.training.messages.conversations import CONVERSATIONS, Row, list_marks
from tests.engines.training.messages.served import ServedRenderer, write_served_model

_END = "<|im_end|>"
# Templates shown as failing, in full.
_SHOWN = 20


@dataclass
class Account:
    """What was compared, and what differed."""

    renderings: int = 0
    refused_alike: int = 0
    rows_prepared: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    disagreements: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    shown: int = 0

    def note(self, kind: str, *details: object) -> None:
        """Count a difference and show the first ones."""
        self.counts[kind] += 1
        self.shown += 1
        if self.shown <= _SHOWN:
            print(kind, *(str(each)[:600] for each in details), file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Side:
    """One template, as training and as transformers know it."""

    name: str
    source: str
    ours: ChatTokenizer
    reference: Any

    @property
    def template(self) -> ChatTemplate:
        return self.ours.choose_template()

    def render(self, row: Row, through: int | None, *, prompt: bool) -> str | None:
        try:
            return self.ours.render(
                row["messages"][:through], read_context(row), add_generation_prompt=prompt
            )
        except FoundryError:
            return None

    def render_reference(
        self, messages: list[Row], tools: Any, row: Row, *, prompt: bool
    ) -> str | None:
        """By transformers, whose errors are whatever a template raises."""
        try:
            return str(
                self.reference.apply_chat_template(
                    messages,
                    chat_template=self.source,
                    tools=tools,
                    documents=row.get("documents"),
                    add_generation_prompt=prompt,
                    tokenize=False,
                    **row.get("chat_template_kwargs", {}),
                )
            )
        except Exception:  # noqa: BLE001
            return None


def read_context(row: Row) -> Context:
    return Context(row.get("tools"), row.get("documents"), row.get("chat_template_kwargs"))


def list_prompts(row: Row) -> Iterator[tuple[int | None, bool]]:
    """What is rendered of a row: before each reply with the prompt, and all without."""
    for index, message in enumerate(row["messages"]):
        if message["role"] == "assistant":
            yield index, True
    yield None, False


def compare_with_vllm(side: Side, served: ServedRenderer, row: Row, name: str, it: Account) -> None:
    for through, prompt in list_prompts(row):
        it.renderings += 1
        ours = side.render(row, through, prompt=prompt)
        theirs = served.render(row, through, side.source, prompt=prompt)
        if theirs is None and ours is None:
            it.refused_alike += 1
        elif theirs is None or ours != theirs[0]:
            it.note("differences_from_vllm", side.name, name, through, repr(ours), repr(theirs))
        elif side.ours.encode(ours) != theirs[1]:
            it.note("token_differences_from_vllm", side.name, name, through)


def compare_with_transformers(side: Side, row: Row, name: str, it: Account) -> None:
    for through, prompt in list_prompts(row):
        messages = row["messages"][:through]
        raw = [{k: v for k, v in m.items() if k != "weight"} for m in messages]
        ours = side.render(row, through, prompt=prompt)
        if ours == side.render_reference(raw, row.get("tools"), row, prompt=prompt):
            continue
        prepared = side.template.prepare(messages)
        tools = prepare_tools(row.get("tools"))
        if ours != side.render_reference(prepared, tools, row, prompt=prompt):
            it.note("differences_from_transformers", side.name, name, through, repr(ours))
            continue
        it.disagreements[explain_disagreement(side, raw, row, ours, prompt=prompt)] += 1


def explain_disagreement(
    side: Side, raw: list[Row], row: Row, ours: str | None, *, prompt: bool
) -> str:
    """Which of vLLM's translations alone makes transformers render what is served."""
    prepared = side.template.prepare(raw)
    tools = row.get("tools")
    if ours == side.render_reference(raw, prepare_tools(tools), row, prompt=prompt):
        return "tools: only the API's fields, nulls for what is missing"
    if ours == side.render_reference(prepared, tools, row, prompt=prompt):
        if any(m["role"] == "developer" for m in raw):
            return "messages: a developer where the template knows none is the system"
        if any(isinstance(m.get("content"), list) for m in raw):
            return "messages: parts are joined where the template reads text"
        if side.template.content_format == "parts":
            return "messages: text is a part where the template reads parts"
        if any(m.get("tool_calls") for m in raw):
            return "messages: calls with objects as arguments, contents never null"
        return "messages: fields that no request has"
    return "both"


def check_training(side: Side, row: Row, name: str, it: Account) -> None:
    try:
        examples = prepare_chat(side.ours, row["messages"], read_context(row))
    except FoundryError as error:
        it.refusals[name_refusal(error.message)] += 1
        return
    it.rows_prepared += 1
    learned = " ".join(_decode_trained(side.reference, each) for each in examples)
    if missing := [mark for mark in list_marks(row) if mark not in learned]:
        it.note("vanished_targets_trained", side.name, name, missing, repr(learned))
    if side.template.marks_replies and len(examples) == 1:
        _compare_masks(side, row, name, examples[0], it)


def name_refusal(message: str) -> str:
    kinds = {
        "renders no tools": "tools not rendered",
        "would not be learned": "a part of a reply not rendered",
        "refuses the messages": "refused by the template",
        "ambiguous": "reply rendered differently from its prompt",
    }
    return next((kind for words, kind in kinds.items() if words in message), message[:80])


def _compare_masks(side: Side, row: Row, name: str, example: Example, it: Account) -> None:
    """Against `return_assistant_tokens_mask`; weights and what follows the last reply are ours."""
    messages = row["messages"]
    if any(m.get("weight") is not None for m in messages):
        return
    encoded = side.reference.apply_chat_template(
        side.template.prepare(messages),
        chat_template=side.source,
        tools=prepare_tools(row.get("tools")),
        documents=row.get("documents"),
        return_assistant_tokens_mask=True,
        return_dict=True,
        **row.get("chat_template_kwargs", {}),
    )
    it.counts["masks_compared"] += 1
    theirs, ours = [bool(each) for each in encoded["assistant_masks"]], list(example.trained)
    if theirs != ours:
        # It takes a character that several tokens spell for its first token.
        if _complete_characters(side, example, theirs) == ours:
            it.disagreements["masks: all tokens of a reply's last character are learned"] += 1
        else:
            it.note("mask_differences_from_transformers", side.name, name)


def _complete_characters(side: Side, example: Example, mask: list[bool]) -> list[bool]:
    text = side.reference.decode(example.tokens)
    offsets = side.ours.encode_with_offsets(text).offsets
    whole = {offset for offset, kept in zip(offsets, mask, strict=True) if kept}
    return [offset in whole for offset in offsets]


def _decode_trained(reference: Any, example: Example) -> str:
    kept = [t for t, weight in zip(example.tokens, example.weights, strict=True) if weight]
    return str(reference.decode(kept))


def build_sides(model_dir: Path, templates: Mapping[str, str]) -> list[Side]:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(model_dir)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    special, now = reference.special_tokens_map, datetime.now()
    sides = []
    for name, source in templates.items():
        try:
            template = ChatTemplate(source, special, now)
        except InvalidArtifact as error:
            print(f"{name} is left out: {error.message}", file=sys.stderr)
            continue
        ours = ChatTokenizer(tokenizer, {"default": template}, eos_id=tokenizer.token_to_id(_END))
        sides.append(Side(name, source, ours, reference))
    return sides


def compare(cache: Path, scratch: Path) -> dict[str, Any]:
    write_served_model(scratch)
    sides = build_sides(scratch, collect_templates(cache))
    served = ServedRenderer(scratch)
    logging.disable(logging.CRITICAL)
    it = Account()
    try:
        for side in sides:
            for name, row in CONVERSATIONS.items():
                compare_with_vllm(side, served, row, name, it)
                compare_with_transformers(side, row, name, it)
                check_training(side, row, name, it)
    finally:
        served.close()
    return {
        "differences_from_vllm": it.counts["differences_from_vllm"],
        "token_differences_from_vllm": it.counts["token_differences_from_vllm"],
        "differences_from_transformers": it.counts["differences_from_transformers"],
        "mask_differences_from_transformers": it.counts["mask_differences_from_transformers"],
        "vanished_targets_trained": it.counts["vanished_targets_trained"],
        "conversations": len(CONVERSATIONS),
        "templates": len(sides),
        "renderings": it.renderings,
        "refused_alike": it.refused_alike,
        "masks_compared": it.counts["masks_compared"],
        "rows_prepared": it.rows_prepared,
        "rows_refused": dict(it.refusals.most_common()),
        "transformers_and_vllm_disagree": dict(it.disagreements.most_common()),
    }


def main() -> int:
    cache = load_settings().home / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="foundry-messages-") as scratch:
        metrics = compare(cache, Path(scratch))
    print(json.dumps({"bench": "messages", "metrics": metrics}))
    wrong = sum(value for name, value in metrics.items() if "differences" in name)
    return 0 if not wrong and not metrics["vanished_targets_trained"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
