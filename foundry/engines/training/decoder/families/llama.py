"""Llama and what differs from it by a switch or two: SmolLM 3, Mistral, Phi-3, OLMo, Granite."""

from dataclasses import replace

from foundry.engines.training.decoder.config import DecoderConfig, Layer
from foundry.engines.training.decoder.families.fields import MOST_LAYERS, Fields
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

_PHI3_ROPE = RopeDefaults(
    original_length=4096,
    kinds=("default", "longrope"),
    # Older files call it so, and mean the same.
    renamed=(("su", "longrope"), ("yarn", "longrope")),
)


def read_llama(fields: Fields) -> DecoderConfig:
    config = read_common(fields, grouped=False)
    bias = fields.flag("attention_bias", False)
    return replace(
        config,
        layers=repeat_layer(fields, Layer(read_shared_rope(fields, config))),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


def read_smollm3(fields: Fields) -> DecoderConfig:
    config = read_common(fields, tied=True)
    rope = read_shared_rope(fields, config, RopeDefaults(theta=2_000_000.0))
    fields.ignore("max_window_layers")
    count = fields.integer("num_hidden_layers", most=MOST_LAYERS)
    every = fields.integer("no_rope_layer_interval", 4)
    roped = fields.choices(
        "no_rope_layers", (0, 1), [int((i + 1) % every != 0) for i in range(count)]
    )
    window = fields.optional_length("sliding_window")
    window = window if fields.flag("use_sliding_window", False) else None
    layers = read_typed_layers(
        fields,
        window,
        dict.fromkeys(LAYER_TYPES, rope),
        lambda i: window is not None and not roped[i],
    )
    bias = fields.flag("attention_bias", False)
    return replace(
        config,
        layers=tuple(
            replace(layer, rope=rope if used else None)
            for layer, used in zip(layers, roped, strict=True)
        ),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


def read_mistral(fields: Fields) -> DecoderConfig:
    config = read_common(fields)
    window = fields.optional_length("sliding_window", missing=4096)
    return replace(
        config, layers=repeat_layer(fields, Layer(read_shared_rope(fields, config), window))
    )


def read_phi3(fields: Fields) -> DecoderConfig:
    config = read_common(fields, grouped=False)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.fix(name, False)
    fields.fix("full_attn_mod", 1)
    fields.fix("interpolate_factor", 1)
    window = fields.optional_length("sliding_window")
    layer = Layer(read_shared_rope(fields, config, _PHI3_ROPE), window)
    return replace(config, layers=repeat_layer(fields, layer), fused=True)


def read_olmo2(fields: Fields) -> DecoderConfig:
    config = read_common(fields, grouped=False)
    bias = fields.flag("attention_bias", False)
    return replace(
        config,
        layers=repeat_layer(fields, Layer(read_shared_rope(fields, config))),
        qkv_bias=bias,
        o_bias=bias,
        qk_norm="projection",
        norm_placement="post",
    )


def read_olmo3(fields: Fields) -> DecoderConfig:
    config = read_common(fields, grouped=False)
    bias = fields.flag("attention_bias", False)
    window = fields.optional_length("sliding_window", missing=4096)
    theta = fields.number("rope_theta", 500_000.0)
    ropes = read_layer_ropes(
        fields, config.head_dim, config.max_position_embeddings, RopeDefaults(theta), theta
    )
    return replace(
        config,
        layers=read_typed_layers(fields, window, ropes, lambda i: (i + 1) % 4 != 0),
        qkv_bias=bias,
        o_bias=bias,
        qk_norm="projection",
        norm_placement="post",
    )


def read_granite(fields: Fields) -> DecoderConfig:
    config = read_common(fields, grouped=False)
    bias = fields.flag("attention_bias", False)
    return replace(
        config,
        layers=repeat_layer(fields, Layer(read_shared_rope(fields, config))),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
        embedding_scale=fields.number("embedding_multiplier", 1.0),
        residual_scale=fields.number("residual_multiplier", 1.0),
        attention_scale=fields.number("attention_multiplier", 1.0),
        logit_scale=1.0 / fields.number("logits_scaling", 1.0),
    )
