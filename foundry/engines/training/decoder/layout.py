"""Which tensors a family's checkpoint holds, and where each goes. Imports no torch.

A tensor that is not expected is refused by name, here or when the weights are read: what is passed
over in silence is a model that answers differently from how it was trained.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from foundry.engines.training.decoder.config import DecoderConfig, Layer
from foundry.errors import InvalidArtifact


@dataclass(frozen=True, slots=True)
class Slot:
    """A decoder parameter, or one expert's part of it."""

    parameter: str
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class _ExpertNames:
    """How a checkpoint calls the routed network, and the three matrices of one expert."""

    block: str
    gate: str
    up: str
    down: str


_EXPERTS = {
    "MixtralForCausalLM": _ExpertNames("block_sparse_moe", "w1", "w3", "w2"),
    "Qwen3MoeForCausalLM": _ExpertNames("mlp", "gate_proj", "up_proj", "down_proj"),
}
# Older exporters stored the rotary table, which follows from config.json.
_LEFTOVERS = re.compile(r"(?:.*\.)?rotary_emb\.inv_freq")
# A config.json of a few bytes may ask for millions of tensors.
_MOST_MISSING = 100_000
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def list_slots(config: DecoderConfig) -> dict[str, Slot]:
    """The tensors of a checkpoint, by name."""
    return dict(_iterate_slots(config))


def _iterate_slots(config: DecoderConfig) -> Iterator[tuple[str, Slot]]:
    outside = (EMBEDDING, "model.norm.weight", *(() if config.tie_word_embeddings else (HEAD,)))
    for name in outside:
        yield name, Slot(name)
    for index, layer in enumerate(config.layers):
        prefix = f"model.layers.{index}."
        for name in _dense_names(config, layer):
            yield prefix + name, Slot(prefix + name)
        if layer.sparse:
            yield from _expert_slots(config, prefix)


def _dense_names(config: DecoderConfig, layer: Layer) -> Iterator[str]:
    fused = config.fused
    for name in ("qkv_proj",) if fused else ("q_proj", "k_proj", "v_proj"):
        yield from _linear(f"self_attn.{name}", config.qkv_bias)
    yield from _linear("self_attn.o_proj", config.o_bias)
    if config.qk_norm is not None:
        yield from ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
    if not layer.sparse:
        gates = ("gate_up_proj",) if fused else ("gate_proj", "up_proj")
        for name in (*gates, "down_proj"):
            yield from _linear(f"mlp.{name}", config.mlp_bias)
    norms = {
        "pre": ("input", "post_attention"),
        "post": ("post_attention", "post_feedforward"),
        "both": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
    }
    for name in norms[config.norm_placement]:
        yield f"{name}_layernorm.weight"


def _linear(name: str, bias: bool) -> tuple[str, ...]:
    return (f"{name}.weight", f"{name}.bias") if bias else (f"{name}.weight",)


def _expert_slots(config: DecoderConfig, prefix: str) -> Iterator[tuple[str, Slot]]:
    names = _EXPERTS[config.architecture]
    yield f"{prefix}{names.block}.gate.weight", Slot(f"{prefix}mlp.gate.weight")
    parts = (("gate_proj", names.gate), ("up_proj", names.up), ("down_proj", names.down))
    for expert in range(config.experts.count if config.experts else 0):
        for part, name in parts:
            yield (
                f"{prefix}{names.block}.experts.{expert}.{name}.weight",
                Slot(f"{prefix}mlp.experts.{part}", expert),
            )


def is_leftover(config: DecoderConfig, name: str) -> bool:
    """Whether a tensor may be stored although nothing needs it."""
    return (name == HEAD and config.tie_word_embeddings) or bool(_LEFTOVERS.fullmatch(name))


def check_names(config: DecoderConfig, names: Collection[str]) -> None:
    """Refuse a checkpoint by the names of its tensors.

    Raises:
        InvalidArtifact: one is missing, or is not part of the architecture.
    """
    surplus, missing = set(names), []
    for name, _ in _iterate_slots(config):
        if name in surplus:
            surplus.remove(name)
        else:
            missing.append(name)
        if len(missing) > _MOST_MISSING:
            raise missing_tensors(missing)
    for name in sorted(surplus):
        if not is_leftover(config, name):
            raise unexpected_tensor(config, name)
    if missing:
        raise missing_tensors(missing)


def unexpected_tensor(config: DecoderConfig, name: str) -> InvalidArtifact:
    return InvalidArtifact(
        f"the weights hold {name}, which {config.architecture} with this config.json lacks: "
        "check that config.json belongs to these weights"
    )


def missing_tensors(names: Collection[str]) -> InvalidArtifact:
    return InvalidArtifact(f"weights lack {min(names)} ({len(names)} tensors in all)")
