"""A Llama-family decoder over a flat stream of tokens.

Sequences are laid end to end, never padded: projections see one matrix of T rows, attention runs
per segment. A packed batch and an unpacked one are therefore the same computation, and a segment
cannot see another.

Shapes: T tokens of a stream, H hidden, Q query heads, K key heads, D head, F feed-forward.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from foundry.engines.training.kernels import gated_projection, lora_projection, rotate, scaled_norm
from foundry.errors import InvalidArtifact, UnsupportedFeature

_FIXED = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}


@dataclass(frozen=True, slots=True)
class LlamaConfig:
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
            document = json.loads((model_dir / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise InvalidArtifact(f"config.json of {model_dir.name} cannot be read") from error
        _refuse_other_architectures(document)
        try:
            return cls._from_document(document)
        except KeyError as error:
            raise InvalidArtifact(f"config.json lacks {error.args[0]!r}") from error

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


def _refuse_other_architectures(document: dict[str, Any]) -> None:
    names = document.get("architectures") or [document.get("model_type")]
    if names != ["LlamaForCausalLM"]:
        raise UnsupportedFeature(
            f"training {', '.join(map(str, names))} is not supported: only LlamaForCausalLM is"
        )
    for key, value in _FIXED.items():
        if document.get(key, value) != value:
            raise UnsupportedFeature(f"LlamaForCausalLM with {key}={document[key]!r}")
    for key in ("rope_scaling", "rope_parameters"):
        rope = document.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise UnsupportedFeature(f"LlamaForCausalLM with {kind!r} rotary scaling")


class Projection(nn.Module):
    """y = x·Wᵀ, plus (alpha/rank)·x·Aᵀ·Bᵀ once an adapter is attached."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        self.scale = 0.0
        self.dropout = 0.0

    def attach(self, rank: int, alpha: int, dropout: float, generator: torch.Generator) -> None:
        """Add an adapter that changes nothing yet: B is zero.

        A is drawn on the CPU, so one seed gives the same adapter on every device.
        """
        outputs, inputs = self.weight.shape
        a = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
        self.lora_A = nn.Parameter(a.to(self.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, device=self.weight.device))
        self.scale, self.dropout = alpha / rank, dropout

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if self.lora_A is None or self.lora_B is None:
            return functional.linear(x, weight)
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        if self.dropout and self.training:
            dropped = functional.dropout(x, self.dropout)
            update = functional.linear(functional.linear(dropped, a), b)
            return functional.linear(x, weight) + self.scale * update
        return lora_projection(x, weight, a, b, self.scale)

    def forward_gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """The projection of silu(gate)·up, which is not kept for the backward pass."""
        if self.dropout and self.training:
            return cast(Tensor, self(functional.silu(gate) * up))
        a = b = None
        if self.lora_A is not None and self.lora_B is not None:
            a, b = self.lora_A.to(gate.dtype), self.lora_B.to(gate.dtype)
        weight = self.weight.to(gate.dtype)
        return gated_projection(gate, up, weight, a, b, self.scale)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return scaled_norm(x, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = Projection(config.hidden_size, queries)
        self.k_proj = Projection(config.hidden_size, keys)
        self.v_proj = Projection(config.hidden_size, keys)
        self.o_proj = Projection(queries, config.hidden_size)

    def forward(
        self, x_TH: Tensor, cos_TD: Tensor, sin_TD: Tensor, segments: Sequence[int]
    ) -> Tensor:
        q_TQD = rotate(self.q_proj(x_TH).unflatten(-1, (-1, self.head_dim)), cos_TD, sin_TD)
        k_TKD = rotate(self.k_proj(x_TH).unflatten(-1, (-1, self.head_dim)), cos_TD, sin_TD)
        v_TKD = self.v_proj(x_TH).unflatten(-1, (-1, self.head_dim))
        return cast(Tensor, self.o_proj(_attend(q_TQD, k_TKD, v_TKD, segments).flatten(-2)))


def _attend(q_TQD: Tensor, k_TKD: Tensor, v_TKD: Tensor, segments: Sequence[int]) -> Tensor:
    """Causal attention inside each segment; no mask is ever materialised.

    Neighbours of one length are computed together: many short segments cost no more than one.
    """
    runs = [(length, len(list(run))) for length, run in groupby(segments)]
    sizes = [length * count for length, count in runs]
    parts = []
    for (length, count), q, k, v in zip(
        runs,
        torch.split(q_TQD, sizes),
        torch.split(k_TKD, sizes),
        torch.split(v_TKD, sizes),
        strict=True,
    ):
        mixed = functional.scaled_dot_product_attention(
            q.view(count, length, *q.shape[1:]).transpose(1, 2),
            k.view(count, length, *k.shape[1:]).transpose(1, 2),
            v.view(count, length, *v.shape[1:]).transpose(1, 2),
            is_causal=True,
            enable_gqa=True,
        )
        parts.append(mixed.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = Projection(config.hidden_size, config.intermediate_size)
        self.up_proj = Projection(config.hidden_size, config.intermediate_size)
        self.down_proj = Projection(config.intermediate_size, config.hidden_size)

    def forward(self, x_TH: Tensor) -> Tensor:
        return self.down_proj.forward_gated(self.gate_proj(x_TH), self.up_proj(x_TH))


class DecoderLayer(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x_TH: Tensor, cos_TD: Tensor, sin_TD: Tensor, segments: Sequence[int]
    ) -> Tensor:
        x_TH = x_TH + self.self_attn(self.input_layernorm(x_TH), cos_TD, sin_TD, segments)
        return x_TH + cast(Tensor, self.mlp(self.post_attention_layernorm(x_TH)))


class Decoder(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """Parameter names equal those of the Hugging Face checkpoint."""

    def __init__(self, config: LlamaConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.activation_checkpointing = False
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens_T: Tensor, positions_T: Tensor, segments: Sequence[int]) -> Tensor:
        """Hidden states after the last norm, shape (T, H), for `lm_head`.

        Args:
            tokens_T: token ids of all segments, end to end.
            positions_T: position of each token inside its segment.
            segments: length of each segment; they sum to T.
        """
        cos_TD, sin_TD = self._rotary(positions_T)
        x_TH = self.model.embed_tokens(tokens_T).to(self.compute_dtype)
        for layer in self.model.layers:
            if self.activation_checkpointing and self.training:
                x_TH = checkpoint(layer, x_TH, cos_TD, sin_TD, segments, use_reentrant=False)
            else:
                x_TH = layer(x_TH, cos_TD, sin_TD, segments)
        return cast(Tensor, self.model.norm(x_TH))

    def _rotary(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of the rotary angles, shape (T, 1, D/2)."""
        size = self.config.head_dim
        exponent = torch.arange(0, size, 2, device=positions_T.device).float() / size
        angles = positions_T.float().unsqueeze(-1) * (1.0 / self.config.rope_theta**exponent)
        angles = angles.unsqueeze(-2)
        return angles.cos().to(self.compute_dtype), angles.sin().to(self.compute_dtype)
