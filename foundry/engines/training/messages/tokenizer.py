"""A model's tokenizer and chat templates, read from its files as transformers reads them."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from foundry.engines.model_files import (
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION_CONFIG,
    MORE_TEMPLATES,
    PROCESSOR_TEMPLATE,
    PROCESSORS,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from foundry.engines.training.messages.conversation import Row
from foundry.engines.training.messages.template import NO_CONTEXT, ChatTemplate, Context
from foundry.errors import InvalidArtifact, UnsupportedFeature

_SPECIAL = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
# Classes without a tokenizer of their own, and models for which transformers believes them.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_PLAIN_MODELS = ("llama",)
_DEFAULT, _WITH_TOOLS = "default", "tool_use"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# With both, vLLM leaves templates alone and asks mistral_common.
_MISTRAL_WEIGHTS, _MISTRAL_TOKENIZERS = (
    "consolidated*.safetensors",
    ("tekken.json", "tokenizer.model.v*"),
)


class ChatTokenizer:
    """A tokenizer with its chat templates.

    Args:
        templates: by name; `tool_use` is taken for rows with tools, `default` for the others.
        ends: ids of the tokens that end a turn or a text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        templates: Mapping[str, ChatTemplate],
        *,
        eos_id: int | None = None,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._templates = dict(templates)
        self.eos_id = eos_id
        self.ends = ends | ({eos_id} if eos_id is not None else set())
        named = (tokenizer.id_to_token(each) for each in self.ends)
        self.end_texts = frozenset(text for text in named if text)

    @classmethod
    def load(cls, model_dir: Path, now: datetime | None = None) -> "ChatTokenizer":
        """Read the tokenizer and the templates of a model's directory.

        Args:
            now: what templates are told when they ask for the date; unset: the clock.

        Raises:
            InvalidArtifact: a file is missing or broken.
            UnsupportedFeature: the files hold a tokenizer that serving would read otherwise.
        """
        # What the file says is not always what is served: by the class that a configuration names,
        # transformers builds splitters and normalisers anew. Where it is installed, as on every
        # node that serves, it is asked; 2 s that plain tokenizers of Llamas need not spend.
        _refuse_other_tokenizers(model_dir)
        config = _read_json(model_dir, TOKENIZER_CONFIG)
        tokenizer = _read_tokenizer(model_dir)
        special = _read_special_tokens(model_dir, config)
        if not _is_plain(model_dir, config) and find_spec("transformers") is not None:
            tokenizer, special = _ask_transformers(model_dir)
        sources = _read_templates(model_dir, config)
        eos = special.get("eos_token")
        return cls(
            tokenizer,
            {name: ChatTemplate(text, special, now) for name, text in sources.items()},
            eos_id=tokenizer.token_to_id(eos) if eos else None,
            ends=_read_ends(model_dir),
        )

    def choose_template(self, tools: Sequence[Row] | None = None) -> ChatTemplate:
        """The template for a row with these tools. Raises UnsupportedFeature."""
        name = _WITH_TOOLS if tools and _WITH_TOOLS in self._templates else _DEFAULT
        if name in self._templates:
            return self._templates[name]
        if self._templates:
            raise UnsupportedFeature(
                f"this model has the chat templates {', '.join(sorted(self._templates))}, and none "
                f"of them is the {_DEFAULT}: name one so"
            )
        raise UnsupportedFeature("this model's tokenizer has no chat template")

    def render(
        self,
        messages: Sequence[Row],
        context: Context = NO_CONTEXT,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """A row's messages as the text that serving would render.

        Raises:
            UnsupportedFeature: the model has no chat template.
            InvalidDataset: the template refuses these messages.
        """
        template = self.choose_template(context.tools)
        prepared = template.prepare(messages)
        options = {"add_generation_prompt": add_generation_prompt}
        return template.render(prepared, context, **options).text

    def encode(self, text: str) -> list[int]:
        """Tokens of a rendered text: its special tokens are in it already."""
        return list(self.encode_with_offsets(text).ids)

    def encode_with_offsets(self, text: str) -> Encoding:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def encode_completion(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """Tokens of a prompt, as /v1/completions reads it, and of what follows.

        Both are encoded together, as a tokenizer may begin every text with a space that does not
        belong between them; apart, where a token would reach over the border.
        """
        head = list(self._tokenizer.encode(prompt).ids)
        both = list(self._tokenizer.encode(prompt + completion).ids)
        if head and both[: len(head)] == head:
            return head, both[len(head) :]
        return head, self.encode_continuation(completion)

    def encode_continuation(self, text: str) -> list[int]:
        """Tokens of a text that goes on another one.

        A line break stands before it meanwhile: what a tokenizer begins every text with, like the
        space of sentencepiece, then belongs to the break.
        """
        encoding = self.encode_with_offsets(f"\n{text}")
        tokens, offsets = encoding.ids, encoding.offsets
        if any(start < 1 < end for start, end in offsets):
            return self.encode(text)
        return [token for token, (_, end) in zip(tokens, offsets, strict=True) if end > 1]


def _refuse_other_tokenizers(model_dir: Path) -> None:
    if any(model_dir.glob(_MISTRAL_WEIGHTS)) and any(
        any(model_dir.glob(pattern)) for pattern in _MISTRAL_TOKENIZERS
    ):
        raise UnsupportedFeature(
            f"{model_dir.name} has Mistral's own files beside Hugging Face's, and serving would "
            "read those instead of the chat template: import it without "
            f"{', '.join((_MISTRAL_WEIGHTS, *_MISTRAL_TOKENIZERS))}"
        )
    there = [name for name in _SENTENCEPIECE if (model_dir / name).is_file()]
    if there and not (model_dir / TOKENIZER).is_file():
        raise UnsupportedFeature(
            f"{model_dir.name} has its tokenizer in {there[0]} only: write {TOKENIZER} with "
            "transformers (AutoTokenizer.from_pretrained and save_pretrained) and import it again"
        )


def _is_plain(model_dir: Path, config: Mapping[str, Any]) -> bool:
    """Whether transformers takes tokenizer.json as it is."""
    if config.get("tokenizer_class") not in _PLAIN_CLASSES:
        return False
    known = (model_dir / CONFIG).is_file()
    return not known or _read_json(model_dir, CONFIG).get("model_type") in _PLAIN_MODELS


def _ask_transformers(model_dir: Path) -> tuple[Tokenizer, dict[str, str]]:
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(
            model_dir, local_files_only=True, trust_remote_code=False
        )
        tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:
        raise UnsupportedFeature(
            f"the tokenizer of {model_dir.name} cannot be loaded as serving would load it: save it "
            "with transformers 5 (AutoTokenizer, save_pretrained) and import it again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, dict(loaded.special_tokens_map)


def _read_tokenizer(model_dir: Path) -> Tokenizer:
    # The file itself: Tokenizer.from_file reports errors as bare Exception.
    document = json.dumps(_read_json(model_dir, TOKENIZER), ensure_ascii=False)
    try:
        tokenizer = Tokenizer.from_str(document)
    except Exception as error:
        raise InvalidArtifact(f"{TOKENIZER} of {model_dir.name} is no tokenizer") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read_json(model_dir: Path, name: str) -> dict[str, Any]:
    try:
        document = json.loads((model_dir / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArtifact(
            f"the tokenizer of {model_dir.name} cannot be read: see {name}"
        ) from error
    if not isinstance(document, dict):
        raise InvalidArtifact(f"{name} of {model_dir.name} must hold an object")
    return document


def _read_special_tokens(model_dir: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by the names that templates know."""
    named = dict(config)
    if "added_tokens_decoder" not in config and (model_dir / SPECIAL_TOKENS).is_file():
        # Files of before 2024 keep them apart, and then those count.
        named |= _read_json(model_dir, SPECIAL_TOKENS)
    extra = named.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= extra
    tokens = {name: _read_token(value) for name, value in named.items() if name.endswith("_token")}
    return {
        name: token
        for name, token in tokens.items()
        if token is not None and (name in _SPECIAL or not name.startswith("add_"))
    }


def _read_token(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_ends(model_dir: Path) -> frozenset[int]:
    """Tokens with which the engine stops, beside the tokenizer's own."""
    if not (model_dir / GENERATION_CONFIG).is_file():
        return frozenset()
    ends = _read_json(model_dir, GENERATION_CONFIG).get("eos_token_id")
    return frozenset(
        each for each in (ends if isinstance(ends, list) else [ends]) if type(each) is int
    )


def _read_templates(model_dir: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name: separate files, or else the tokenizer's configuration."""
    files = {path.stem: path for path in (model_dir / MORE_TEMPLATES).glob("*.jinja")}
    if (separate := model_dir / CHAT_TEMPLATE).is_file():
        files[_DEFAULT] = separate
    if files:
        return {name: path.read_text(encoding="utf-8") for name, path in sorted(files.items())}
    template = config.get("chat_template")
    if template is None and any((model_dir / name).is_file() for name in PROCESSORS):
        template = _read_processor_template(model_dir)
    if isinstance(template, str):
        return {_DEFAULT: template}
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template}
    if template is not None and not isinstance(template, dict):
        raise InvalidArtifact(
            f"chat_template in {TOKENIZER_CONFIG} of {model_dir.name} must be a text"
        )
    return dict(template or {})


def _read_processor_template(model_dir: Path) -> Any:
    if not (model_dir / PROCESSOR_TEMPLATE).is_file():
        return None
    return _read_json(model_dir, PROCESSOR_TEMPLATE).get("chat_template")
