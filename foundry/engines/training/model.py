"""A Llama-family decoder over a flat stream of tokens.

Sequences are laid end to end, never padded: projections see one matrix of T rows, attention runs
per segment. A packed batch and an unpacked one are therefore the same computation, and a segment
cannot see another.

Shapes: T tokens of a stream, H hidden, Q query heads, K key heads, D head, F feed-forward.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from foundry.engines.training.architecture import LlamaConfig as LlamaConfig
from foundry.engines.training.kernels import gated_projection, lora_projection, rotate, scaled_norm


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
