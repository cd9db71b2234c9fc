"""Rows of a dataset become tokenised examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foundry.engines.training.messages.conversation import Row
from foundry.engines.training.messages.targets import (
    Example,
    Reply,
    ReplyLocator,
    mark_replies,
)
from foundry.engines.training.messages.template import NO_CONTEXT, ChatTemplate, Context
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.engines.training.messages.vanishing import check_nothing_vanishes
from foundry.errors import InvalidDataset, UnsupportedFeature


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset, tokenised.

    Attributes:
        dropped: examples left out because they are too long, or because cutting left no target.
        truncated: examples that were cut.
    """

    examples: tuple[Example, ...]
    dropped: int = 0
    truncated: int = 0


def prepare(
    rows: Sequence[Row],
    tokenizer: ChatTokenizer,
    *,
    max_seq_len: int,
    too_long: Literal["error", "drop", "truncate"],
    split: str | None = None,
) -> Prepared:
    """Tokenise chat rows (`messages`) and completion rows (`prompt`, `completion`).

    Args:
        split: of the dataset, as errors name it.

    Raises:
        InvalidDataset: names the first row that cannot be used, counted from 1.
        UnsupportedFeature: the model's files do not say how to render a row; names the row.
    """
    examples: list[Example] = []
    dropped = truncated = 0
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of the {split} split" if split else f"row {number}"
        for example in _prepare_row(row, number, where, tokenizer):
            size = len(example.tokens)
            if size > max_seq_len:
                if too_long == "error":
                    raise InvalidDataset(
                        f"{where}: {size} tokens exceed max_seq_len {max_seq_len}: raise it, "
                        "or set too_long to drop or truncate",
                        row=number,
                    )
                if too_long == "truncate":
                    truncated += 1
                    example = Example(example.tokens[:max_seq_len], example.weights[:max_seq_len])
            if len(example.tokens) > max_seq_len or not any(example.weights[1:]):
                dropped += 1
            else:
                examples.append(example)
    return Prepared(tuple(examples), dropped, truncated)


def _prepare_row(row: Row, number: int, where: str, tokenizer: ChatTokenizer) -> list[Example]:
    try:
        if "messages" in row:
            context = Context(
                row.get("tools"), row.get("documents"), row.get("chat_template_kwargs")
            )
            return prepare_chat(tokenizer, row["messages"], context)
        return [prepare_completion(tokenizer, row["prompt"], row["completion"])]
    except (InvalidDataset, UnsupportedFeature) as error:
        raise type(error)(f"{where}: {error.message}", row=number) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise InvalidDataset(
            f"{where}: expected messages, or prompt and completion", row=number
        ) from error


def prepare_completion(tokenizer: ChatTokenizer, prompt: str, completion: str) -> Example:
    """Plain text; the completion and the end-of-text token are trained."""
    head, tail = tokenizer.encode_completion(prompt, completion)
    if tokenizer.eos_id is not None:
        tail = [*tail, tokenizer.eos_id]
    return Example((*head, *tail), (0.0,) * len(head) + (1.0,) * len(tail))


def prepare_chat(
    tokenizer: ChatTokenizer, messages: Sequence[Row], context: Context = NO_CONTEXT
) -> list[Example]:
    """Usually one example. Where a template rewrites earlier turns (dropping a model's
    reasoning, say), one example per reply, each seen exactly as when it was generated.

    Raises:
        InvalidDataset: the template refuses the messages, or a part of a reply vanishes in it.
        UnsupportedFeature: there is no template, or it does not say where a reply begins.
    """
    replies = [index for index, message in enumerate(messages) if _read_weight(message)]
    if not replies:
        return []
    template = tokenizer.choose_template(context.tools)
    _check_tools(template, messages[: replies[0] + 1], context)
    found = [_locate_reply(tokenizer, template, messages, index, context) for index in replies]
    return mark_replies(tokenizer, found, exact=template.marks_replies)


def _locate_reply(
    tokenizer: ChatTokenizer,
    template: ChatTemplate,
    messages: Sequence[Row],
    index: int,
    context: Context,
) -> Reply:
    """Reply `index`, as it was generated: nothing that follows it is seen."""
    prepared = template.prepare(messages[: index + 1])
    try:
        locator = ReplyLocator(template, prepared, context)
        check_nothing_vanishes(locator, tokenizer.end_texts)
    except (InvalidDataset, UnsupportedFeature) as error:
        raise type(error)(f"messages[{index}]: {error.message}") from error
    return replace(locator.reply, weight=_read_weight(messages[index]))


def _read_weight(message: Row) -> float:
    """How much a message counts in the loss."""
    if message["role"] != "assistant":
        return 0.0
    weight = message.get("weight")
    return 1.0 if weight is None else float(weight)


def _check_tools(template: ChatTemplate, messages: Sequence[Row], context: Context) -> None:
    if not context.tools:
        return
    prepared = template.prepare(messages)
    try:
        without = template.render(prepared, replace(context, tools=None))
        same = template.render(prepared, context) == without
    except InvalidDataset:
        # The template insists on one or the other; rendering the reply says which.
        return
    if same:
        raise InvalidDataset(
            "the chat template renders no tools, so the model would not see them: remove tools "
            "from the row, or train from a base whose chat template renders them"
        )
