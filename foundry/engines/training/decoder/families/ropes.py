"""Reading rotary embeddings, in the spelling of transformers 4 (`rope_scaling`, `rope_theta`) and 5
(`rope_parameters`, perhaps one object per kind of layer).

Formulas: `modeling_rope_utils.py` of transformers; llama3 from Llama 3.1, YaRN from
arXiv:2309.00071, LongRoPE from arXiv:2402.13753.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from foundry.engines.training.decoder.config import Rope, RopeKind
from foundry.engines.training.decoder.families.fields import MOST_TOKENS, Fields

LAYER_TYPES = ("full_attention", "sliding_attention")
_KINDS: tuple[RopeKind, ...] = get_args(RopeKind)


@dataclass(frozen=True, slots=True)
class RopeDefaults:
    """What the file leaves to the family.

    Attributes:
        original_length: the model class's own `original_max_position_embeddings`.
        kinds: that the family knows.
        renamed: kinds by older names.
    """

    theta: float = 10_000.0
    original_length: int | None = None
    kinds: Sequence[RopeKind] = _KINDS
    renamed: tuple[tuple[str, RopeKind], ...] = ()


@dataclass(frozen=True, slots=True)
class _Context:
    head_dim: int
    length: int
    original_length: int | None
    theta: float
    partial: float
    defaults: RopeDefaults


def read_rope(
    fields: Fields, head_dim: int, max_length: int, defaults: RopeDefaults | None = None
) -> Rope:
    """The one rotary embedding of all layers."""
    context = _read_context(fields, head_dim, max_length, defaults or RopeDefaults())
    scaling = fields.nested("rope_scaling")
    parameters = fields.nested("rope_parameters")
    return _read_kind(scaling or parameters or Fields({}, fields.architecture), context)


def read_layer_ropes(
    fields: Fields,
    head_dim: int,
    max_length: int,
    defaults: RopeDefaults,
    sliding_theta: float,
) -> dict[str, Rope]:
    """One rotary embedding for each kind of layer; `rope_scaling` stretches the full ones only."""
    context = _read_context(fields, head_dim, max_length, defaults)
    sliding = replace(context, theta=sliding_theta)
    nothing = Fields({}, fields.architecture)
    scaling = fields.nested("rope_scaling")
    parameters = fields.nested("rope_parameters")
    if parameters is None:
        return {
            "full_attention": _read_kind(scaling or nothing, context),
            "sliding_attention": _read_kind(nothing, sliding),
        }
    full = scaling or parameters.nested("full_attention") or nothing
    local = parameters.nested("sliding_attention") or nothing
    parameters.ignore("full_attention")
    parameters.refuse_rest()
    return {
        "full_attention": _read_kind(full, context),
        "sliding_attention": _read_kind(local, sliding),
    }


def _read_context(
    fields: Fields, head_dim: int, max_length: int, defaults: RopeDefaults
) -> _Context:
    return _Context(
        head_dim=head_dim,
        length=max_length,
        original_length=fields.optional_length("original_max_position_embeddings")
        or defaults.original_length,
        theta=fields.number("rope_theta", defaults.theta),
        partial=fields.number("partial_rotary_factor", 1.0),
        defaults=defaults,
    )


def _read_kind(fields: Fields, context: _Context) -> Rope:
    name = fields.text("rope_type", fields.text("type", "default"))
    renamed = dict(context.defaults.renamed).get(name, name)
    kind = next((each for each in context.defaults.kinds if each == renamed), None)
    if kind is None:
        raise fields.unsupported("rope_type", name, context.defaults.kinds)
    share = fields.number("partial_rotary_factor", context.partial)
    size = int(context.head_dim * share)
    if size % 2 or not 2 <= size <= context.head_dim:
        raise fields.broken(
            "partial_rotary_factor", share, f"an even part of a head of {context.head_dim}"
        )
    theta = fields.number("rope_theta", context.theta)
    if theta <= 1:
        raise fields.broken("rope_theta", theta, "a number above 1")
    rope = Rope(kind, theta=theta, size=size)
    rope = _READERS[kind](fields, rope, context)
    if kind == "default":
        # Files carry these along although nothing is stretched.
        fields.ignore("factor", "original_max_position_embeddings")
    fields.refuse_rest()
    return rope


def _read_default(fields: Fields, rope: Rope, context: _Context) -> Rope:
    return rope


def _read_linear(fields: Fields, rope: Rope, context: _Context) -> Rope:
    fields.ignore("original_max_position_embeddings")
    return replace(rope, factor=fields.number("factor"))


def _read_dynamic(fields: Fields, rope: Rope, context: _Context) -> Rope:
    fields.ignore("original_max_position_embeddings")
    if rope.size < 4:
        raise fields.unsupported("rope_type", "dynamic")
    return replace(rope, factor=fields.number("factor"), original_length=context.length)


def _read_llama3(fields: Fields, rope: Rope, context: _Context) -> Rope:
    low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
    if not low < high:
        raise fields.broken("high_freq_factor", high, f"above low_freq_factor, {low:g}")
    return replace(
        rope,
        factor=fields.number("factor"),
        original_length=_read_original(fields, context),
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _read_yarn(fields: Fields, rope: Rope, context: _Context) -> Rope:
    original = _read_original(fields, context)
    factor = fields.number("factor", context.length / original)
    scale, scale_all = fields.take("mscale"), fields.take("mscale_all_dim")
    amplitude = _yarn_amplitude(factor, 1.0)
    if scale and scale_all:
        amplitude = _yarn_amplitude(factor, fields.number("mscale")) / _yarn_amplitude(
            factor, fields.number("mscale_all_dim")
        )
    fast, slow = fields.number("beta_fast", 32.0), fields.number("beta_slow", 1.0)
    low, high = (_turning(rope, original, turns) for turns in (fast, slow))
    if fields.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    return replace(
        rope,
        factor=factor,
        original_length=original,
        amplitude=fields.number("attention_factor", amplitude),
        ramp=(max(low, 0), min(high, rope.size - 1)),
    )


def _yarn_amplitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _turning(rope: Rope, length: int, turns: float) -> float:
    """The dimension that turns so many times in the original context."""
    return rope.size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))


def _read_longrope(fields: Fields, rope: Rope, context: _Context) -> Rope:
    original = _read_original(fields, context)
    factor = fields.number("factor", context.length / original)
    amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return replace(
        rope,
        factor=factor,
        original_length=original,
        amplitude=fields.number("attention_factor", amplitude),
        short_factor=fields.numbers("short_factor", rope.size // 2),
        long_factor=fields.numbers("long_factor", rope.size // 2),
    )


def _read_original(fields: Fields, context: _Context) -> int:
    """Tokens; a field beside the object wins over one inside it."""
    own = fields.integer("original_max_position_embeddings", context.length, most=MOST_TOKENS)
    length = context.original_length or own
    if length < 2:
        raise fields.broken("original_max_position_embeddings", length, "a context")
    return length


_READERS: dict[RopeKind, Callable[[Fields, Rope, _Context], Rope]] = {
    "default": _read_default,
    "linear": _read_linear,
    "dynamic": _read_dynamic,
    "llama3": _read_llama3,
    "yarn": _read_yarn,
    "longrope": _read_longrope,
}
