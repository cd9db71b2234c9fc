"""Qwen, and Mixtral, the other family with routed experts."""

from dataclasses import replace

from foundry.engines.training.decoder.config import DecoderConfig, Experts, Layer
from foundry.engines.training.decoder.families.fields import MOST_EXPERTS, MOST_LAYERS, Fields
from foundry.engines.training.decoder.families.reading import (
    read_common,
    read_shared_rope,
    read_typed_layers,
    repeat_layer,
)
from foundry.engines.training.decoder.families.ropes import LAYER_TYPES, RopeDefaults


def read_qwen2(fields: Fields) -> DecoderConfig:
    config = read_common(fields)
    fields.fix("use_mrope", False)
    return replace(config, layers=_qwen_layers(fields, config), qkv_bias=True)


def read_qwen3(fields: Fields) -> DecoderConfig:
    config = read_common(fields, head_dim=128)
    bias = fields.flag("attention_bias", False)
    layers = _qwen_layers(fields, config)
    return replace(config, layers=layers, qkv_bias=bias, o_bias=bias, qk_norm="head")


def read_qwen3_moe(fields: Fields) -> DecoderConfig:
    config = read_common(fields)
    window = fields.optional_length("sliding_window", missing=4096)
    window = window if fields.flag("use_sliding_window", False) else None
    # The class knows one window for all layers; the older field still lies in published files.
    fields.ignore("max_window_layers")
    count = fields.integer("num_hidden_layers", most=MOST_LAYERS)
    dense = fields.take("mlp_only_layers", [])
    if not isinstance(dense, list):
        raise fields.broken("mlp_only_layers", dense, "a list of layers")
    every = fields.integer("decoder_sparse_step", 1)
    layer = Layer(read_shared_rope(fields, config), window)
    bias = fields.flag("attention_bias", False)
    return replace(
        config,
        layers=tuple(
            replace(layer, sparse=i not in dense and (i + 1) % every == 0) for i in range(count)
        ),
        qkv_bias=bias,
        o_bias=bias,
        qk_norm="head",
        experts=_read_experts(
            fields,
            count="num_experts" if fields.holds("num_experts") else "num_local_experts",
            width=fields.integer("moe_intermediate_size"),
            normalised=fields.flag("norm_topk_prob", False),
        ),
    )


def read_mixtral(fields: Fields) -> DecoderConfig:
    config = read_common(fields)
    window = fields.optional_length("sliding_window")
    rope = read_shared_rope(fields, config, RopeDefaults(theta=1_000_000.0))
    fields.fix("router_jitter_noise", 0, 0.0)
    return replace(
        config,
        layers=repeat_layer(fields, Layer(rope, window, sparse=True)),
        experts=_read_experts(
            fields, count="num_local_experts", width=config.intermediate_size, normalised=True
        ),
    )


def _qwen_layers(fields: Fields, config: DecoderConfig) -> tuple[Layer, ...]:
    """The upper layers slide, where the file turns that on."""
    window = fields.optional_length("sliding_window", missing=4096)
    window = window if fields.flag("use_sliding_window", False) else None
    first = fields.integer("max_window_layers", 28, least=0)
    ropes = dict.fromkeys(LAYER_TYPES, read_shared_rope(fields, config))
    return read_typed_layers(fields, window, ropes, lambda i: window is not None and i >= first)


def _read_experts(fields: Fields, *, count: str, width: int, normalised: bool) -> Experts:
    experts = fields.integer(count, most=MOST_EXPERTS)
    per_token = fields.integer("num_experts_per_tok")
    if per_token > experts:
        raise fields.broken("num_experts_per_tok", per_token, f"at most {count}, {experts}")
    # The loss that balances experts would have to join the objective; no objective has it yet.
    fields.fix("output_router_logits", False)
    fields.ignore("router_aux_loss_coef")
    return Experts(experts, per_token, width, normalised)
