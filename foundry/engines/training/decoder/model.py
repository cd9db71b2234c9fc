"""A decoder over a flat stream of tokens; which one, `DecoderConfig` says.

Sequences are laid end to end, never padded: projections see one matrix of T rows, attention runs
per segment. A packed batch and an unpacked one are therefore the same computation, and a segment
cannot see another.

Shapes: T tokens of a stream, H hidden, Q query heads, K key heads, D head, F feed-forward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foundry.engines.training.decoder.attention import attend
from foundry.engines.training.decoder.cache import KVCache
from foundry.engines.training.decoder.casting import dither
from foundry.engines.training.decoder.config import DecoderConfig as DecoderConfig
from foundry.engines.training.decoder.config import Layer
from foundry.engines.training.decoder.experts import ExpertBank, SparseMLP
from foundry.engines.training.decoder.kernels import rotate
from foundry.engines.training.decoder.norm import RMSNorm
from foundry.engines.training.decoder.projection import Projection, project_together
from foundry.engines.training.decoder.rope import rotary_angles


@dataclass(frozen=True, slots=True)
class Stream:
    """What a layer must know of the tokens that it is given.

    Attributes:
        dtype: of matrix products; the residual stream may be wider.
        positions_T: of each token in its sequence.
        segments: tokens of each sequence; they sum to T.
        cache: keys and values of earlier tokens; None: the segments are whole sequences.
    """

    dtype: torch.dtype
    positions_T: Tensor
    segments: Sequence[int]
    cache: KVCache | None = None


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.window = config.layers[index].window
        self.softcap = config.attention_softcap
        self.scale = config.attention_scale or config.head_dim**-0.5
        self.head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.sizes = [queries, keys, keys]
        hidden, bias = config.hidden_size, config.qkv_bias
        if config.fused:
            self.qkv_proj = Projection(hidden, queries + 2 * keys, bias)
        else:
            self.q_proj = Projection(hidden, queries, bias)
            self.k_proj = Projection(hidden, keys, bias)
            self.v_proj = Projection(hidden, keys, bias)
        self.fused = config.fused
        self.o_proj = Projection(queries, hidden, config.o_bias)
        self.norm_heads = config.qk_norm == "head"
        if config.qk_norm is not None:
            sizes = (self.head_dim, self.head_dim) if self.norm_heads else (queries, keys)
            self.q_norm, self.k_norm = (_make_norm(config, size) for size in sizes)
        self.normed = config.qk_norm is not None

    def forward(self, x_TH: Tensor, rotary: tuple[Tensor, Tensor] | None, stream: Stream) -> Tensor:
        mixed_TQD = self.mix(*self._project(x_TH), rotary, stream)
        return cast(Tensor, self.o_proj(mixed_TQD.flatten(-2)))

    def mix(
        self,
        q_TQD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        stream: Stream,
    ) -> Tensor:
        """What each token takes of the values that it sees, shape (T, Q, D)."""
        if rotary is not None:
            q_TQD, k_TKD = rotate(q_TQD, *rotary), rotate(k_TKD, *rotary)
        if stream.cache is None:
            return attend(
                q_TQD,
                k_TKD,
                v_TKD,
                stream.segments,
                window=self.window,
                softcap=self.softcap,
                scale=self.scale,
            )
        return stream.cache.attend(
            self.index,
            q_TQD,
            k_TKD,
            v_TKD,
            stream.positions_T,
            window=self.window,
            softcap=self.softcap,
            scale=self.scale,
        )

    def _project(self, x_TH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.fused:
            q, k, v = self.qkv_proj(x_TH).split(self.sizes, dim=-1)
        else:
            q, k, v = project_together(x_TH, (self.q_proj, self.k_proj, self.v_proj))
        if self.normed and not self.norm_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (torch.unflatten(x, -1, (-1, self.head_dim)) for x in (q, k, v))
        if self.normed and self.norm_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v


class MLP(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = config.activation
        self.fused = config.fused
        if config.fused:
            self.gate_up_proj = Projection(hidden, 2 * inner, bias)
        else:
            self.gate_proj = Projection(hidden, inner, bias)
            self.up_proj = Projection(hidden, inner, bias)
        self.down_proj = Projection(inner, hidden, bias)

    def forward(self, x_TH: Tensor) -> Tensor:
        if self.fused:
            gate_TF, up_TF = self.gate_up_proj(x_TH).chunk(2, dim=-1)
        else:
            gate_TF, up_TF = project_together(x_TH, (self.gate_proj, self.up_proj))
        return self.down_proj.forward_gated(gate_TF, up_TF, self.activation)


class DecoderLayer(nn.Module):
    """Attention, then feed-forward, each with norms where the family has them.

    Names are the checkpoint's: with norms before only, `post_attention_layernorm` is the one before
    the feed-forward network, else it is the one after attention.
    """

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        layer = config.layers[index]
        self.placement = config.norm_placement
        self.residual_scale = config.residual_scale
        if self.placement != "post":
            self.input_layernorm = _make_norm(config, config.hidden_size)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = _make_norm(config, config.hidden_size)
        if self.placement == "both":
            self.pre_feedforward_layernorm = _make_norm(config, config.hidden_size)
        if self.placement != "pre":
            self.post_feedforward_layernorm = _make_norm(config, config.hidden_size)
        self.mlp = _make_mlp(config, layer)

    def forward(self, x_TH: Tensor, rotary: tuple[Tensor, Tensor] | None, stream: Stream) -> Tensor:
        post = self.placement == "post"
        normed_TH = x_TH.to(stream.dtype) if post else self.input_layernorm(x_TH, stream.dtype)
        mixed_TH = self.self_attn(normed_TH, rotary, stream)
        if self.placement != "pre":
            mixed_TH = self.post_attention_layernorm(mixed_TH, x_TH.dtype)
        x_TH = torch.add(x_TH, mixed_TH, alpha=self.residual_scale)
        fed_TH = self.mlp(self._norm_before_mlp(x_TH, stream.dtype))
        if self.placement != "pre":
            fed_TH = self.post_feedforward_layernorm(fed_TH, x_TH.dtype)
        return torch.add(x_TH, fed_TH, alpha=self.residual_scale)

    def _norm_before_mlp(self, x_TH: Tensor, dtype: torch.dtype) -> Tensor:
        if self.placement == "post":
            return x_TH.to(dtype)
        pre = self.placement == "pre"
        norm = self.post_attention_layernorm if pre else self.pre_feedforward_layernorm
        return cast(Tensor, norm(x_TH, dtype))


def _make_norm(config: DecoderConfig, size: int) -> RMSNorm:
    return RMSNorm(size, config.rms_norm_eps, config.norm_offset)


def _make_mlp(config: DecoderConfig, layer: Layer) -> nn.Module:
    if layer.sparse and config.experts is not None:
        return SparseMLP(config.hidden_size, config.experts, config.activation)
    return MLP(config)


class DecoderStack(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = _make_norm(config, config.hidden_size)


class Decoder(nn.Module):
    """Parameter names equal those of the Hugging Face checkpoint, but for experts: see `layout`.

    Attributes:
        lm_head: from the hidden states that a call returns to the logits.
        logit_softcap: what `lm_head` gives is bent by it; None: it is not. `logits` does both.
        recomputed_layers: so many, from the first on, keep their input only while the model trains
            and compute the rest again in the backward pass.
    """

    def __init__(self, config: DecoderConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.recomputed_layers = 0
        self.logit_softcap = config.logit_softcap
        self.model = DecoderStack(config)
        self.lm_head = Projection(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        tokens_T: Tensor,
        positions_T: Tensor,
        segments: Sequence[int],
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states after the last norm, shape (T, H), scaled for `lm_head`.

        Args:
            tokens_T: token ids of all segments, end to end.
            positions_T: position of each token inside its segment.
            segments: length of each segment; they sum to T.
            cache: of earlier tokens of these sequences; it takes in these.
        """
        lengths = segments if cache is None else cache.begin(segments)
        rotaries = {
            rope: rotary_angles(rope, positions_T, segments, lengths, self.compute_dtype)
            for rope in {layer.rope for layer in self.config.layers}
            if rope is not None
        }
        stream = Stream(self.compute_dtype, positions_T, segments, cache)
        x_TH = self._embed(tokens_T)
        kinds = enumerate(zip(self.model.layers, self.config.layers, strict=True))
        for index, (layer, kind) in kinds:
            rotary = None if kind.rope is None else rotaries[kind.rope]
            if index < self.recomputed_layers and self.training:
                x_TH = checkpoint(layer, x_TH, rotary, stream, use_reentrant=False)
            else:
                x_TH = layer(x_TH, rotary, stream)
        x_TH = self.model.norm(x_TH, self.compute_dtype)
        return cast(
            Tensor, x_TH if self.config.logit_scale == 1 else x_TH * self.config.logit_scale
        )

    def narrow_projections(self) -> None:
        """Keep the matrices in the type of the computation, in place.

        Embeddings and norms stay as they are: their values are used in float32.
        """
        for module in self.modules():
            if isinstance(module, Projection | ExpertBank):
                for parameter in module.parameters(recurse=False):
                    if parameter is not self.model.embed_tokens.weight:
                        parameter.data = dither(parameter.data, self.compute_dtype)

    def logits(self, hidden_TH: Tensor) -> Tensor:
        """Shape (T, V), float32 (float64 for float64): what the softmax is taken of."""
        logits_TV = cast(Tensor, self.lm_head(hidden_TH))
        logits_TV = logits_TV if logits_TV.dtype == torch.float64 else logits_TV.float()
        if self.logit_softcap is None:
            return logits_TV
        return torch.tanh(logits_TV / self.logit_softcap) * self.logit_softcap

    def _embed(self, tokens_T: Tensor) -> Tensor:
        rows_TH = self.model.embed_tokens(tokens_T)
        x_TH = rows_TH.to(_choose_residual_dtype(self.compute_dtype, rows_TH.device))
        if self.config.embedding_scale == 1:
            return cast(Tensor, x_TH)
        # Rounded first, as where the model was trained: Gemma's 55.4 is 55.5 in bfloat16.
        scale = torch.tensor(self.config.embedding_scale, dtype=self.compute_dtype).to(x_TH)
        return cast(Tensor, x_TH * scale)


def _choose_residual_dtype(compute: torch.dtype, device: torch.device) -> torch.dtype:
    """The type of the residual stream: float32 on a processor, that of the computation elsewhere.

    Rounded to bfloat16 at each of its 60 sums, SmolLM2-135M's log-probabilities were 0.046 off
    (root mean square), in float32 0.034. A processor adds float32 in less time (0.08 ms against
    0.11 for 1,026 tokens of 576); on a GPU, whose memory is the limit, it would take twice as long.
    """
    wide = torch.promote_types(compute, torch.float32)
    return wide if device.type == "cpu" else compute
