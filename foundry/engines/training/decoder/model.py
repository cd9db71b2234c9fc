"""A Llama-family decoder over a flat stream of tokens.

Sequences are laid end to end, never padded: projections see one matrix of T rows, attention runs
per segment. A packed batch and an unpacked one are therefore the same computation, and a segment
cannot see another.

Shapes: T tokens of a stream, H hidden, Q query heads, K key heads, D head, F feed-forward.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foundry.engines.training.decoder.attention import attend
from foundry.engines.training.decoder.config import DecoderConfig as DecoderConfig
from foundry.engines.training.decoder.kernels import rotate
from foundry.engines.training.decoder.norm import RMSNorm
from foundry.engines.training.decoder.projection import Projection, project_together


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
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
        q_TQD, k_TKD, v_TKD = (
            torch.unflatten(part, -1, (-1, self.head_dim))
            for part in project_together(x_TH, (self.q_proj, self.k_proj, self.v_proj))
        )
        q_TQD, k_TKD = rotate(q_TQD, cos_TD, sin_TD), rotate(k_TKD, cos_TD, sin_TD)
        return cast(Tensor, self.o_proj(attend(q_TQD, k_TKD, v_TKD, segments).flatten(-2)))


class MLP(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = Projection(config.hidden_size, config.intermediate_size)
        self.up_proj = Projection(config.hidden_size, config.intermediate_size)
        self.down_proj = Projection(config.intermediate_size, config.hidden_size)

    def forward(self, x_TH: Tensor) -> Tensor:
        gate_TF, up_TF = project_together(x_TH, (self.gate_proj, self.up_proj))
        return self.down_proj.forward_gated(gate_TF, up_TF)


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
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


class DecoderStack(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Decoder(nn.Module):
    """Parameter names equal those of the Hugging Face checkpoint."""

    def __init__(self, config: DecoderConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.activation_checkpointing = False
        self.logit_softcap: float | None = None
        self.model = DecoderStack(config)
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
