"""The model families that can be trained: one row each.

A row's reader knows every field that its family's config.json may hold; see `fields`. Sources: the
configuration and model classes of transformers 5, against which the tests compare each family.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from foundry.engines.training.decoder.config import DecoderConfig
from foundry.engines.training.decoder.families import gemma, llama, qwen
from foundry.engines.training.decoder.families.fields import Fields
from foundry.errors import InvalidArtifact, UnsupportedFeature


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture name.

    Attributes:
        model_type: that config.json must agree with.
        read: its configuration.
    """

    model_type: str
    read: Callable[[Fields], DecoderConfig]


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family("llama", llama.read_llama),
    "SmolLM3ForCausalLM": Family("smollm3", llama.read_smollm3),
    "Qwen2ForCausalLM": Family("qwen2", qwen.read_qwen2),
    "Qwen3ForCausalLM": Family("qwen3", qwen.read_qwen3),
    "Qwen3MoeForCausalLM": Family("qwen3_moe", qwen.read_qwen3_moe),
    "MistralForCausalLM": Family("mistral", llama.read_mistral),
    "MixtralForCausalLM": Family("mixtral", qwen.read_mixtral),
    "GemmaForCausalLM": Family("gemma", gemma.read_gemma),
    "Gemma2ForCausalLM": Family("gemma2", gemma.read_gemma2),
    "Gemma3ForCausalLM": Family("gemma3_text", gemma.read_gemma3),
    "Phi3ForCausalLM": Family("phi3", llama.read_phi3),
    "Olmo2ForCausalLM": Family("olmo2", llama.read_olmo2),
    "Olmo3ForCausalLM": Family("olmo3", llama.read_olmo3),
    "GraniteForCausalLM": Family("granite", llama.read_granite),
}


def read_config(document: object) -> DecoderConfig:
    """Read a parsed config.json.

    Raises:
        InvalidArtifact: no object, or values that no model has.
        UnsupportedFeature: another architecture, or a field or value that the decoder lacks.
    """
    if not isinstance(document, dict):
        raise InvalidArtifact("config.json is not an object")
    architecture = _find_architecture(document)
    if document.get("quantization_config"):
        raise UnsupportedFeature(
            "training the weights of a quantised checkpoint is not supported: "
            "import the checkpoint that it was made from, and train that"
        )
    fields = Fields(document, architecture)
    fields.ignore("quantization_config")
    config = FAMILIES[architecture].read(fields)
    fields.refuse_rest()
    return config


def _find_architecture(document: dict[str, Any]) -> str:
    names = document.get("architectures") or [document.get("model_type")]
    named = names if isinstance(names, list) else [names]
    architecture = named[0] if names == named and len(named) == 1 else None
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        hint = f"only {', '.join(FAMILIES)} are"
        if "text_config" in document:
            hint = f"it reads more than text, and {hint}"
        raise UnsupportedFeature(
            f"training {', '.join(map(str, named))[:160]} is not supported: {hint}"
        )
    model_type, expected = document.get("model_type"), FAMILIES[architecture].model_type
    if model_type not in (None, expected):
        raise InvalidArtifact(
            f"config.json says architectures={named} but model_type={model_type!r}, "
            f"not {expected!r}"
        )
    return architecture
