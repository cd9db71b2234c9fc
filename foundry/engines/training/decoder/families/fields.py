"""Reading a config.json so that no field is passed over in silence.

Every field is read by the family's reader, or listed here as one that decides no logit. What is
left over is refused by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from foundry.errors import InvalidArtifact, UnsupportedFeature

# No model comes near these; what is larger would cost memory or overflow before it is found out.
MOST_WIDTH, MOST_TOKENS, MOST_LAYERS, MOST_EXPERTS = 2**20, 2**30, 1024, 1024
_LARGEST_NUMBER = 1e30

# Say where the file came from, how it is stored, or which tokens mean what.
_DESCRIPTIVE = (
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "_sliding_window_pattern",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "model_type",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "sep_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
)
# Noise while training: a run decides on its own regularisation.
_NOISE = ("attention_dropout", "embd_pdrop", "hidden_dropout", "resid_pdrop")
# What to return, and how to decode: transformers 4 wrote the defaults of `generate` here.
_OUTPUT = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
)
IRRELEVANT = frozenset((*_DESCRIPTIVE, *_NOISE, *_OUTPUT))
# Fields of every configuration that change the computation unless they hold this.
_FIXED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "rope_interleaved": (False, None),
    "tf_legacy_loss": (False, None),
    "tie_encoder_decoder": (False, None),
    "use_bfloat16": (False, None),
}


class Fields:
    """The fields of one JSON object, each of which must be read or refused.

    Args:
        document: the object.
        architecture: whose configuration it is, for messages.
        prefix: path of the object inside config.json, with a trailing dot.
    """

    def __init__(self, document: Mapping[str, Any], architecture: str, prefix: str = "") -> None:
        self.architecture = architecture
        self._document = document
        self._prefix = prefix
        self._read: set[str] = set()

    def take(self, name: str, default: Any = None) -> Any:
        """The value as it is; `default` where the field is missing or null."""
        self._read.add(name)
        value = self._document.get(name)
        return default if value is None else value

    def integer(
        self, name: str, default: int | None = None, *, least: int = 1, most: int = MOST_WIDTH
    ) -> int:
        value = self._required(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.broken(name, value, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self._required(name, default)
        if not _is_positive(value):
            raise self.broken(name, value, "a number above 0")
        return float(value)

    def optional_number(self, name: str, *, missing: float | None = None) -> float | None:
        """A positive number, or None where it is null.

        Args:
            missing: where the field is not there: what transformers' class of the family then has.
        """
        return self.number(name, missing) if self._is_set(name, missing) else None

    def optional_length(self, name: str, *, missing: int | None = None) -> int | None:
        """Tokens, else as `optional_number`."""
        if not self._is_set(name, missing):
            return None
        return self.integer(name, missing, most=MOST_TOKENS)

    def _is_set(self, name: str, missing: float | None) -> bool:
        """Whether a field has a value, by itself or because it is not there."""
        if name not in self._document:
            self._read.add(name)
            return missing is not None
        return self.take(name) is not None

    def text(self, name: str, default: str) -> str:
        value = self.take(name, default)
        if not isinstance(value, str):
            raise self.broken(name, value, "a text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.broken(name, value, "true or false")
        return value

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        value = self._required(name, None)
        if not isinstance(value, list) or len(value) != count:
            raise self.broken(name, value, f"a list of {count} numbers")
        if not all(map(_is_positive, value)):
            raise self.broken(name, value, "a list of numbers above 0")
        return tuple(map(float, value))

    def choices(self, name: str, allowed: Sequence[Any], default: Sequence[Any]) -> list[Any]:
        """One entry per default, each of them in `allowed`."""
        value = self.take(name, list(default))
        if not isinstance(value, list) or len(value) < len(default):
            raise self.broken(name, value, f"a list of {len(default)} entries")
        for entry in value:
            if entry not in allowed:
                raise self.unsupported(name, entry, allowed)
        return value[: len(default)]

    def nested(self, name: str) -> "Fields | None":
        """The object in a field; None where there is none."""
        value = self.take(name)
        if value is None or value == {}:
            return None
        if not isinstance(value, dict):
            raise UnsupportedFeature(
                f"training {self.architecture} with {self._prefix}{name}={_short(value)} "
                "is not supported: only an object is"
            )
        return Fields(value, self.architecture, f"{self._prefix}{name}.")

    def holds(self, name: str) -> bool:
        return self._document.get(name) is not None

    def fix(self, name: str, *allowed: Any) -> None:
        """Refuse a field that holds anything else. A missing one counts as null."""
        value = self.take(name)
        if value is not None and not any(value is x or value == x for x in allowed):
            raise self.unsupported(name, value, allowed)

    def require(self, name: str) -> None:
        """Refuse a file without the field, whatever it may hold. Raises InvalidArtifact."""
        if name not in self._document:
            raise InvalidArtifact(f"config.json lacks {self._prefix + name!r}")

    def ignore(self, *names: str) -> None:
        """Fields that decide nothing in this family."""
        self._read.update(names)

    def refuse_rest(self) -> None:
        """Refuse what nobody asked for. Raises UnsupportedFeature with the field's name."""
        if not self._prefix:
            for name, allowed in _FIXED.items():
                self.fix(name, *allowed)
            self.ignore(*IRRELEVANT)
        for name in sorted(self._document.keys() - self._read):
            raise UnsupportedFeature(
                f"training {self.architecture} with {self._prefix}{name}="
                f"{_short(self._document[name])} is not supported: this field is not understood"
            )

    def broken(self, name: str, value: object, wanted: str) -> InvalidArtifact:
        return InvalidArtifact(
            f"config.json says {self._prefix}{name}={_short(value)}, which is not {wanted}"
        )

    def unsupported(
        self, name: str, value: object, allowed: Sequence[Any] = ()
    ) -> UnsupportedFeature:
        known = ", ".join(repr(x) for x in allowed if x is not None)
        return UnsupportedFeature(
            f"training {self.architecture} with {self._prefix}{name}={_short(value)} "
            f"is not supported{f': only {known} is' if known else ''}"
        )

    def _required(self, name: str, default: Any) -> Any:
        value = self.take(name, default)
        if value is None:
            raise InvalidArtifact(f"config.json lacks {self._prefix + name!r}")
        return value


def _is_positive(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= _LARGEST_NUMBER  # type: ignore[operator]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
