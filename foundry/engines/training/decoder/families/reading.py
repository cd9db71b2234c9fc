"""What the readers of all families share."""

from collections.abc import Callable, Sequence

from foundry.engines.training.decoder.config import Activation, DecoderConfig, Layer, Rope
from foundry.engines.training.decoder.families.fields import MOST_LAYERS, MOST_TOKENS, Fields
from foundry.engines.training.decoder.families.ropes import LAYER_TYPES, RopeDefaults, read_rope

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_SILU = ("silu", "swish")


def read_common(
    fields: Fields,
    *,
    activation: str = "hidden_act",
    activations: Sequence[str] = _SILU,
    default_activation: str = "silu",
    head_dim: int | None = None,
    tied: bool = False,
    grouped: bool = True,
) -> DecoderConfig:
    """What all families have; the layers are left out.

    Args:
        activation: the field's name.
        head_dim, tied: the model class's own defaults.
        grouped: a file without `num_key_value_heads` does not mean as many as there are queries.
    """
    heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    if grouped:
        fields.require("num_key_value_heads")
    key_heads = fields.integer("num_key_value_heads", heads)
    if heads % key_heads:
        raise fields.broken("num_key_value_heads", key_heads, f"a divisor of {heads}")
    name = fields.text(activation, default_activation)
    if name not in activations:
        raise fields.unsupported(activation, name, activations)
    return DecoderConfig(
        architecture=fields.architecture,
        vocab_size=fields.integer("vocab_size", most=MOST_TOKENS),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=fields.integer("head_dim", head_dim or hidden // heads),
        max_position_embeddings=fields.integer("max_position_embeddings", most=MOST_TOKENS),
        rms_norm_eps=fields.number("rms_norm_eps"),
        tie_word_embeddings=fields.flag("tie_word_embeddings", tied),
        layers=(),
        activation=_ACTIVATIONS[name],
    )


def read_shared_rope(
    fields: Fields, config: DecoderConfig, defaults: RopeDefaults | None = None
) -> Rope:
    return read_rope(fields, config.head_dim, config.max_position_embeddings, defaults)


def repeat_layer(fields: Fields, layer: Layer) -> tuple[Layer, ...]:
    return (layer,) * fields.integer("num_hidden_layers", most=MOST_LAYERS)


def read_typed_layers(
    fields: Fields, window: int | None, ropes: dict[str, Rope], default: Callable[[int], bool]
) -> tuple[Layer, ...]:
    """Layers of two kinds; `default` says of an index whether it slides, if the file does not."""
    kinds = fields.choices(
        "layer_types",
        LAYER_TYPES,
        [
            LAYER_TYPES[default(i)]
            for i in range(fields.integer("num_hidden_layers", most=MOST_LAYERS))
        ],
    )
    return tuple(
        Layer(ropes[kind], window if kind == "sliding_attention" else None) for kind in kinds
    )
