"""What budsim knows of a model: its shape, never its name."""

from dataclasses import dataclass
from typing import Literal

WeightFormat = Literal["fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4"]

# Bytes per weight, with scales: 4-bit formats carry one scale per small group.
WEIGHT_BYTES: dict[WeightFormat, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.56,
    "fp4": 0.56,
}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder as its `config.json` describes it.

    Attributes:
        layers: decoder layers of any kind.
        full_layers: layers whose KV cache covers the whole context (all, for most models).
        sliding_layers: layers that attend to the last `window` tokens only.
        window: tokens; 0 without sliding layers.
        state_bytes: of one sequence in layers with a recurrent state (Mamba, linear attention).
        hidden: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads; 1 for multi-head latent attention.
        head_dim: per head, of queries and keys.
        kv_width: values cached per token and full layer: 2·kv_heads·head_dim; with latent
            attention its rank plus the rotary part (576 for DeepSeek).
        latent: multi-head latent attention: the cache is replicated over tensor parallel ranks.
        ffn: width of the dense feed-forward network; of one expert, for a mixture of experts.
        vocabulary: tokens.
        parameters: all, exact; buffers, like the routing corrections of DeepSeek-V3, are none.
        active_parameters: that one token uses, embedding tables included.
        lookup_parameters: of them those that are looked up, never multiplied: learned positions
            and an input embedding that the head does not share.
        expert_parameters: of all routed experts together; 0 for dense models.
        experts: routed experts per layer; 0 for dense models.
        experts_per_token: routed experts that a token visits.
        max_length: tokens of context.
        weight_format: of the checkpoint.
        checkpoint_bytes: of the weight files where known (safetensors index), else None.
        exact: the counts equal the real modules'; False: an unknown model type was read like
            Llama, or towers of other modalities are not counted.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    kv_width: float
    ffn: int
    vocabulary: int
    parameters: float
    active_parameters: float
    full_layers: int
    sliding_layers: int = 0
    window: int = 0
    state_bytes: float = 0.0
    latent: bool = False
    expert_parameters: float = 0.0
    experts: int = 0
    experts_per_token: int = 0
    max_length: int = 8192
    weight_format: WeightFormat = "bf16"
    checkpoint_bytes: int | None = None
    lookup_parameters: float = 0.0
    exact: bool = True

    def kv_bytes_per_token(self, element_bytes: float = 2.0) -> float:
        """Growth of the KV cache per token of context, beyond any sliding window; bytes."""
        return self.full_layers * self.kv_width * element_bytes

    def kv_bytes(self, tokens: float, element_bytes: float = 2.0) -> float:
        """KV cache and recurrent state of one sequence of so many tokens; bytes."""
        sliding = self.sliding_layers * self.kv_width * min(tokens, self.window)
        full = self.full_layers * self.kv_width * tokens
        return (full + sliding) * element_bytes + self.state_bytes


def flops_per_token(spec: ModelSpec, context: float) -> float:
    """Operations of one forward pass for one token that attends to `context` tokens.

    Two per multiplied parameter, and two each for scores and values per query head, head dimension
    and token seen. The update of recurrent states is left out: below 2 % of the rest.
    """
    seen = spec.full_layers * context + spec.sliding_layers * min(context, spec.window)
    multiplied = spec.active_parameters - spec.lookup_parameters
    return 2.0 * multiplied + 4.0 * spec.heads * spec.head_dim * seen
