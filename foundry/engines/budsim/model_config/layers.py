"""Which kind each layer is: what mixes its tokens, and which feed-forward network follows."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from foundry.engines.budsim.model_config.families import Family
from foundry.engines.budsim.model_config.fields import MAX_LAYERS, Config, checked_integer
from foundry.errors import InvalidRequest

Mixer = Literal["full", "sliding", "recurrent"]
FeedForward = Literal["dense", "sparse", "none"]

_MIXERS: dict[str, tuple[Mixer, ...]] = {
    "full_attention": ("full",),
    "attention": ("full",),
    "indexed_attention": ("full",),
    "sliding_attention": ("sliding",),
    "chunked_attention": ("sliding",),
    "linear_attention": ("recurrent",),
    "mamba": ("recurrent",),
    "hybrid": ("full", "recurrent"),
    "mlp": (),
    "moe": (),
}
_NEMOTRON_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


@dataclass(frozen=True, slots=True)
class Layer:
    mixers: tuple[Mixer, ...]
    feed_forward: FeedForward


def layers_of(config: Config, family: Family) -> tuple[Layer, ...]:
    """Every layer of the decoder, in order.

    Raises:
        InvalidRequest: a layer type is unknown or the list has the wrong length.
    """
    single = _single_branch_types(config)
    if single is not None:
        return tuple(Layer(_mixers(kind, window=0), _SINGLE[kind]) for kind in single)
    count = config.integer("layers")
    window = window_of(config)
    sparse = _sparse_layers(config, count)
    kinds = _layer_types(config, family, count)
    if family.parallel_recurrence:
        kinds = ["hybrid"] * count
    return tuple(
        Layer(_mixers(kind, window), "sparse" if is_sparse else "dense")
        for kind, is_sparse in zip(kinds, sparse, strict=True)
    )


def window_of(config: Config) -> int:
    """Tokens of the sliding window or attention chunk; 0 without one."""
    if not config.flag("use_sliding_window", default=True):
        return 0
    return config.integer("window", 0) or config.integer("chunk", 0)


# Nemotron-H: a layer is a mixer or a feed-forward network, never both.
_SINGLE: dict[str, FeedForward] = {
    "mamba": "none",
    "linear_attention": "none",
    "attention": "none",
    "full_attention": "none",
    "mlp": "dense",
    "moe": "sparse",
}


def _single_branch_types(config: Config) -> list[str] | None:
    pattern = config.text("hybrid_override_pattern")
    listed = config.sequence("layers_block_type")
    if config.text("model_type") != "nemotron_h" or (not pattern and listed is None):
        return None
    letters: list[object] = [_NEMOTRON_LETTERS.get(letter, letter) for letter in pattern]
    kinds = letters or list(listed or ())
    checked_integer("number of layers", len(kinds), low=1, high=MAX_LAYERS)
    names = [str(kind) for kind in kinds]
    for name in names:
        if name not in _SINGLE:
            raise _unknown(name, _SINGLE)
    return names


def _mixers(kind: object, window: int) -> tuple[Mixer, ...]:
    mixers = _MIXERS.get(str(kind))
    if mixers is None:
        raise _unknown(kind, _MIXERS)
    return ("full",) if mixers == ("sliding",) and not window else mixers


def _layer_types(config: Config, family: Family, count: int) -> list[object]:
    listed = config.sequence("layer_types") or config.sequence("layers_block_type")
    if listed is not None:
        return _of_length("layer_types", listed, count)
    numbered = config.sequence("attn_type_list")
    if numbered is not None:
        kinds = _of_length("attn_type_list", numbered, count)
        return ["full_attention" if kind == 1 else "linear_attention" for kind in kinds]
    if family.recurrence and not family.parallel_recurrence:
        attends = _attention_rule(config, family)
        return [
            "full_attention" if attends(index) else "linear_attention" for index in range(count)
        ]
    return _window_pattern(config, family, count)


def _attention_rule(config: Config, family: Family) -> Callable[[int], bool]:
    """Which layers of a hybrid attend, where the file lists none."""
    indices = config.layer_indices("attn_layer_indices")
    if indices is not None:
        return indices.__contains__
    period = config.optional("attention_period")
    if period is not None:
        offset = config.integer("attention_offset", 0)
        return lambda index: index % period == offset
    interval = config.optional("attention_interval")
    if interval is not None:
        return lambda index: (index + 1) % interval == 0
    if family.recurrence == "lightning":
        return lambda index: index % 2 == 0
    return lambda _index: False


def _window_pattern(config: Config, family: Family, count: int) -> list[object]:
    if config.flag("use_sliding_window"):
        first = config.integer("max_window_layers", 0)
        return ["sliding_attention" if i >= first else "full_attention" for i in range(count)]
    period = family.period
    # Elsewhere the key means nothing, or holds a string that the default agrees with.
    listed = config.values.get(
        "sliding_window_pattern", config.values.get("_sliding_window_pattern")
    )
    if period > 1 and isinstance(listed, int):
        period = checked_integer("sliding_window_pattern", listed, low=1, high=MAX_LAYERS)
    if period == 0:
        return ["full_attention"] * count
    return [
        "full_attention" if period > 1 and (i + 1) % period == 0 else "sliding_attention"
        for i in range(count)
    ]


def _sparse_layers(config: Config, count: int) -> list[bool]:
    """Which layers carry experts; the keys say by which of the conventions."""
    if not config.integer("experts", 0):
        return [False] * count
    listed = config.sequence("mlp_layer_types")
    if listed is not None:
        return [kind == "sparse" for kind in _of_length("mlp_layer_types", listed, count)]
    moe_layers = config.layer_indices("moe_layers")
    if moe_layers is not None:
        return [index in moe_layers for index in range(count)]
    dense = config.layer_indices("mlp_only_layers") or frozenset()
    first = config.integer("first_dense", 0)
    step = config.integer("sparse_step", 0) or config.integer("sparse_interleave", 1)
    period = config.integer("expert_period", 1)
    offset = config.integer("expert_offset", 0)
    return [
        index >= first
        and index not in dense
        and (index + 1) % step == 0
        and index % period == offset
        for index in range(count)
    ]


def _of_length(key: str, values: object, count: int) -> list[object]:
    kinds = list(values) if isinstance(values, list | tuple) else []
    if len(kinds) != count:
        raise InvalidRequest(
            f"config.json: `{key}` has {len(kinds)} entries for {count} layers", field=key
        )
    return kinds


def _unknown(kind: object, accepted: Iterable[str]) -> InvalidRequest:
    return InvalidRequest(
        f"config.json: layer type {str(kind)[:80]!r} is unknown; accepted: {', '.join(accepted)}",
        field="layer_types",
    )
