"""Which models the trainer reads. Imports no torch: the control plane asks before it queues."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from foundry.engines.model_files import CONFIG
from foundry.errors import InvalidArtifact, UnsupportedFeature

ARCHITECTURE = "LlamaForCausalLM"
_FIXED = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The part of config.json that decides the computation."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool

    @classmethod
    def load(cls, model_dir: Path) -> Self:
        """Read config.json.

        Raises:
            InvalidArtifact: missing, not JSON, or incomplete.
            UnsupportedFeature: another architecture, or a variant that this decoder lacks.
        """
        try:
            document = json.loads((model_dir / CONFIG).read_text())
        except (OSError, ValueError) as error:
            raise InvalidArtifact(f"config.json of {model_dir.name} cannot be read") from error
        return cls.of(document)

    @classmethod
    def of(cls, document: object) -> Self:
        """Read a parsed config.json; raises the same as `load`."""
        if not isinstance(document, dict):
            raise InvalidArtifact("config.json is not an object")
        _refuse_other_architectures(document)
        try:
            return cls._from_document(document)
        except KeyError as error:
            raise InvalidArtifact(f"config.json lacks {error.args[0]!r}") from error
        except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise InvalidArtifact("config.json holds values that no Llama has") from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Self:
        heads = document["num_attention_heads"]
        hidden = document["hidden_size"]
        rope = document.get("rope_parameters") or {}
        return cls(
            vocab_size=document["vocab_size"],
            hidden_size=hidden,
            intermediate_size=document["intermediate_size"],
            num_hidden_layers=document["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=document.get("num_key_value_heads") or heads,
            head_dim=document.get("head_dim") or hidden // heads,
            max_position_embeddings=document["max_position_embeddings"],
            rms_norm_eps=document["rms_norm_eps"],
            rope_theta=float(rope.get("rope_theta") or document.get("rope_theta") or 10_000.0),
            tie_word_embeddings=document.get("tie_word_embeddings", False),
        )

    def most_fragments(self, *, lora: bool) -> int:
        """Into how many parts DiLoCo can cut what is trained, so that none is empty."""
        # Beside the layers: the embedding, the last norm, and a head that is not the embedding.
        outside = 0 if lora else 2 + (not self.tie_word_embeddings)
        return self.num_hidden_layers + outside


def _refuse_other_architectures(document: Mapping[str, Any]) -> None:
    names = document.get("architectures") or [document.get("model_type")]
    if names != [ARCHITECTURE]:
        named = names if isinstance(names, list) else [names]
        raise UnsupportedFeature(
            f"training {', '.join(map(str, named))[:160]} is not supported: only {ARCHITECTURE} is"
        )
    if document.get("quantization_config"):
        raise UnsupportedFeature(
            "training the weights of a quantised checkpoint is not supported: "
            "import the checkpoint that it was made from, and train that"
        )
    for key, value in _FIXED.items():
        if document.get(key, value) != value:
            raise UnsupportedFeature(
                f"training {ARCHITECTURE} with {key}={document[key]!r} is not supported: "
                f"only {value!r} is"
            )
    for key in ("rope_scaling", "rope_parameters"):
        rope = document.get(key) or {}
        kind = (
            rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
        )
        if kind != "default":
            raise UnsupportedFeature(
                f"training {ARCHITECTURE} with {kind!r} rotary scaling is not supported"
            )
