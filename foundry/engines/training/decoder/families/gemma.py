"""Gemma: norms stored less one, scaled embeddings, soft caps, and layers of two kinds."""

from collections.abc import Sequence
from dataclasses import replace

from foundry.engines.training.decoder.config import DecoderConfig, Layer
from foundry.engines.training.decoder.families.fields import Fields
from foundry.engines.training.decoder.families.reading import (
    read_common,
    read_shared_rope,
    read_typed_layers,
    repeat_layer,
)
from foundry.engines.training.decoder.families.ropes import (
    LAYER_TYPES,
    RopeDefaults,
    read_layer_ropes,
)


def read_gemma(fields: Fields) -> DecoderConfig:
    # Published files say "gelu" and mean the tanh form; transformers reads both like that.
    name = "hidden_activation" if fields.holds("hidden_activation") else "hidden_act"
    fields.ignore("hidden_activation", "hidden_act")
    config = _gemma_common(fields, name, ("gelu", "gelu_pytorch_tanh"))
    return replace(
        config,
        activation="gelu_tanh",
        layers=repeat_layer(fields, Layer(read_shared_rope(fields, config))),
    )


def read_gemma2(fields: Fields) -> DecoderConfig:
    config = _gemma_common(fields, "hidden_activation")
    fields.ignore("hidden_act", "sliding_window_size")
    window = fields.optional_length("sliding_window", missing=4096)
    ropes = dict.fromkeys(LAYER_TYPES, read_shared_rope(fields, config))
    return replace(
        config,
        layers=read_typed_layers(fields, window, ropes, lambda i: i % 2 == 0),
        norm_placement="both",
        attention_scale=fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
        attention_softcap=fields.optional_number("attn_logit_softcapping", missing=50.0),
        logit_softcap=fields.optional_number("final_logit_softcapping", missing=30.0),
    )


def read_gemma3(fields: Fields) -> DecoderConfig:
    config = _gemma_common(fields, "hidden_activation")
    fields.ignore("hidden_act")
    # The class has the field and does not apply it.
    fields.fix("attn_logit_softcapping")
    window = fields.optional_length("sliding_window", missing=4096)
    every = fields.integer("sliding_window_pattern", 6)
    ropes = read_layer_ropes(
        fields,
        config.head_dim,
        config.max_position_embeddings,
        RopeDefaults(theta=1_000_000.0),
        sliding_theta=fields.number("rope_local_base_freq", 10_000.0),
    )
    return replace(
        config,
        layers=read_typed_layers(fields, window, ropes, lambda i: (i + 1) % every != 0),
        qk_norm="head",
        norm_placement="both",
        attention_scale=fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
        logit_softcap=fields.optional_number("final_logit_softcapping"),
    )


_PHI3_ROPE = RopeDefaults(
    original_length=4096,
    kinds=("default", "longrope"),
    # Older files call it so, and mean the same.
    renamed=(("su", "longrope"), ("yarn", "longrope")),
)


def _gemma_common(
    fields: Fields, activation: str, activations: Sequence[str] = ("gelu_pytorch_tanh",)
) -> DecoderConfig:
    config = read_common(
        fields,
        activation=activation,
        activations=activations,
        default_activation="gelu_pytorch_tanh",
        head_dim=256,
        tied=True,
    )
    fields.fix("use_bidirectional_attention", False)
    bias = fields.flag("attention_bias", False)
    return replace(
        config,
        qkv_bias=bias,
        o_bias=bias,
        norm_offset=1.0,
        embedding_scale=config.hidden_size**0.5,
    )
