"""Chat templates, tokenisation, and which tokens are trained.

Only the model's own replies are trained, each with the token that ends its turn. Rendering follows
transformers (the same sandbox, options and helpers), so training, serving and every other reader of
the tokenizer's files see the same text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from foundry.engines.model_files import CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from foundry.errors import InvalidArtifact, InvalidDataset, UnsupportedFeature

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """One tokenised sequence; `trained[i]` says whether token i is a target."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]


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


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(value: object, **options: Any) -> str:
    # jinja's own filter escapes HTML characters, which a model would then learn.
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTokenizer:
    """A tokenizer and its chat template."""

    def __init__(
        self, tokenizer: Tokenizer, template: str | None, special_tokens: Mapping[str, str]
    ) -> None:
        self._tokenizer = tokenizer
        self._template = _environment().from_string(template) if template else None
        self._special = dict(special_tokens)
        eos = self._special.get("eos_token")
        self.eos_id: int | None = tokenizer.token_to_id(eos) if eos else None

    @classmethod
    def load(cls, model_dir: Path) -> "ChatTokenizer":
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja.

        Raises:
            InvalidArtifact: a file is missing or broken.
        """
        try:
            config = json.loads((model_dir / TOKENIZER_CONFIG).read_text())
            # The file itself: Tokenizer.from_file reports errors as bare Exception.
            document = (model_dir / TOKENIZER).read_text()
            json.loads(document)
        except (OSError, ValueError) as error:
            raise InvalidArtifact(f"the tokenizer of {model_dir.name} cannot be read") from error
        tokenizer = Tokenizer.from_str(document)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        special = {key: _content(config[key]) for key in _SPECIAL if config.get(key)}
        try:
            return cls(tokenizer, _template_text(model_dir, config), special)
        except jinja2.TemplateError as error:
            raise InvalidArtifact(f"the chat template is broken: {error}") from error

    def render(
        self,
        messages: Sequence[Row],
        *,
        tools: Sequence[Row] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The conversation as text.

        Raises:
            UnsupportedFeature: the model has no chat template.
            InvalidDataset: the template refuses these messages.
        """
        if self._template is None:
            raise UnsupportedFeature("this model's tokenizer has no chat template")
        try:
            return self._template.render(
                messages=messages,
                tools=tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special,
            )
        except (jinja2.TemplateError, TypeError) as error:
            raise InvalidDataset(f"the chat template refuses the messages: {error}") from error

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def chat_examples(
        self, messages: Sequence[Row], tools: Sequence[Row] | None = None
    ) -> list[Example]:
        """Usually one example. Where a template rewrites earlier turns (dropping a model's
        reasoning, say), one example per reply, each seen exactly as when it was generated."""
        replies = [
            i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0
        ]
        if not replies:
            return []
        full = self.render(messages, tools=tools)
        spans = []
        for i in replies:
            before, after = self._reply(messages, i, tools)
            if not full.startswith(after):
                return [self._single_reply(messages, index, tools) for index in replies]
            spans.append((len(before), len(after)))
        return [self._mask(full, spans)]

    def completion_example(self, prompt: str, completion: str) -> Example:
        """Plain text; the completion and the end-of-text token are trained."""
        head = list(self._tokenizer.encode(prompt, add_special_tokens=True).ids)
        tail = self.encode(completion) + ([] if self.eos_id is None else [self.eos_id])
        return Example((*head, *tail), (False,) * len(head) + (True,) * len(tail))

    def _reply(
        self, messages: Sequence[Row], index: int, tools: Sequence[Row] | None
    ) -> tuple[str, str]:
        """The text before reply `index` (with the generation prompt), and through it."""
        before = self.render(messages[:index], tools=tools, add_generation_prompt=True)
        after = self.render(messages[: index + 1], tools=tools)
        if not after.startswith(before):
            raise UnsupportedFeature(
                "the chat template renders a reply differently from its generation prompt, "
                "so what to train is ambiguous"
            )
        return before, after

    def _single_reply(
        self, messages: Sequence[Row], index: int, tools: Sequence[Row] | None
    ) -> Example:
        before, after = self._reply(messages, index, tools)
        return self._mask(after, [(len(before), len(after))])

    def _mask(self, text: str, spans: Sequence[tuple[int, int]]) -> Example:
        """Train the tokens that lie wholly inside a span, up to the last end-of-turn token."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        trained = [False] * len(encoding.ids)
        for start, end in spans:
            inside = [i for i, (a, b) in enumerate(encoding.offsets) if start <= a and b <= end]
            ends = [i for i in inside if encoding.ids[i] == self.eos_id]
            for i in inside:
                # What follows the end of turn is the template's glue; no model generates it.
                trained[i] = not ends or i <= ends[-1]
        return Example(tuple(encoding.ids), tuple(trained))


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _template_text(model_dir: Path, config: Mapping[str, Any]) -> str | None:
    separate = model_dir / CHAT_TEMPLATE
    if separate.is_file():
        return separate.read_text()
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template


def prepare(
    rows: Sequence[Row],
    tokenizer: ChatTokenizer,
    *,
    max_seq_len: int,
    too_long: Literal["error", "drop", "truncate"],
) -> Prepared:
    """Tokenise chat rows (`messages`) and completion rows (`prompt`, `completion`).

    Raises:
        InvalidDataset: names the first row that cannot be used, counted from 1.
    """
    examples: list[Example] = []
    dropped = truncated = 0
    for number, row in enumerate(rows, start=1):
        for example in _row_examples(row, number, tokenizer):
            size = len(example.tokens)
            if size > max_seq_len:
                if too_long == "error":
                    raise InvalidDataset(
                        f"row {number}: {size} tokens exceed max_seq_len {max_seq_len}: raise it, "
                        "or set too_long to drop or truncate",
                        row=number,
                    )
                if too_long == "truncate":
                    truncated += 1
                    example = Example(example.tokens[:max_seq_len], example.trained[:max_seq_len])
            if len(example.tokens) > max_seq_len or not any(example.trained[1:]):
                dropped += 1
            else:
                examples.append(example)
    return Prepared(tuple(examples), dropped, truncated)


def _row_examples(row: Row, number: int, tokenizer: ChatTokenizer) -> list[Example]:
    try:
        if "messages" in row:
            return tokenizer.chat_examples(row["messages"], row.get("tools"))
        return [tokenizer.completion_example(row["prompt"], row["completion"])]
    except InvalidDataset as error:
        raise InvalidDataset(f"row {number}: {error.message}", row=number) from error
    except (KeyError, TypeError) as error:
        raise InvalidDataset(
            f"row {number}: expected messages, or prompt and completion", row=number
        ) from error
