"""A `ModelSpec` from a configuration: every parameter counted, none estimated."""

from collections.abc import Mapping
from dataclasses import replace

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.model_config import weights
from foundry.engines.budsim.model_config.families import FAMILIES, Family, family_of, is_on
from foundry.engines.budsim.model_config.fields import Config, checked_integer
from foundry.engines.budsim.model_config.layers import Layer, layers_of, window_of
from foundry.engines.budsim.model_config.quantization import weight_format
from foundry.engines.budsim.model_config.weights import NO_EXPERTS, NO_RECURRENCE
from foundry.errors import InvalidRequest, UnsupportedFeature

_TEXT_SECTIONS = ("text_config", "llm_config", "language_config")
_OTHER_MODALITIES = ("vision_config", "audio_config", "vision_tower_config")
_GENERATIVE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def model_spec(config: Mapping[str, object], *, checkpoint_bytes: int | None = None) -> ModelSpec:
    """The decoder that a `config.json` describes.

    Args:
        config: the parsed file. Of a multimodal model the text decoder is described, and
            `exact` is False, because its other towers are not counted.
        checkpoint_bytes: of the weight files, where known.
    Raises:
        InvalidRequest: a key is missing or absurd; the message names it and what is accepted.
        UnsupportedFeature: the model is no decoder.
    """
    outer = Config(config)
    text = _text_config(outer)
    _refuse_others(outer, text)
    family, text = family_of(text)
    spec = _spec(text, outer, family, layers_of(text, family))
    if checkpoint_bytes is not None:
        checked_integer("checkpoint_bytes", checkpoint_bytes, low=1, high=2**60)
    exact = family.exact and not any(key in config for key in _OTHER_MODALITIES)
    return replace(spec, exact=exact, checkpoint_bytes=checkpoint_bytes)


def _text_config(outer: Config) -> Config:
    for key in _TEXT_SECTIONS:
        section = outer.section(key)
        if section:
            return Config(section)
    return outer


def _refuse_others(outer: Config, text: Config) -> None:
    if outer.flag("is_encoder_decoder") or text.flag("is_encoder_decoder"):
        raise UnsupportedFeature(
            "this model has an encoder; budsim sizes decoder-only models", field="model_type"
        )
    names = [str(name) for name in outer.sequence("architectures") or ()]
    unknown = text is outer and text.text("model_type") not in FAMILIES
    if unknown and names and not any(ending in name for name in names for ending in _GENERATIVE):
        raise UnsupportedFeature(
            f"{names[0][:80]} generates no text; budsim sizes models whose architecture ends with "
            f"{', '.join(_GENERATIVE)}",
            field="architectures",
        )


def _spec(text: Config, outer: Config, family: Family, layers: tuple[Layer, ...]) -> ModelSpec:
    mixers = [mixer for layer in layers for mixer in layer.mixers]
    dense_layers = sum(layer.feed_forward == "dense" for layer in layers)
    sparse_layers = sum(layer.feed_forward == "sparse" for layer in layers)
    recurrent_layers = mixers.count("recurrent")

    attention = weights.attention(text, family)
    recurrent = weights.recurrent(text, family) if recurrent_layers else NO_RECURRENCE
    sparse = weights.sparse(text, family) if sparse_layers else NO_EXPERTS
    ffn = weights.dense_width(text, family) if dense_layers else 0
    embeddings, looked_up = _embeddings(text, outer, family)
    total = embeddings + _norms(text, family, len(layers))
    total += (len(mixers) - recurrent_layers) * attention.parameters
    total += recurrent_layers * recurrent.parameters
    total += dense_layers * weights.dense(text, family, ffn)
    total += sparse_layers * sparse.parameters
    idle = sparse_layers * (sparse.experts - sparse.experts_per_token) * sparse.expert
    return ModelSpec(
        layers=len(layers),
        hidden=text.integer("hidden"),
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        kv_width=attention.kv_width,
        ffn=sparse.ffn or ffn,
        vocabulary=text.integer("vocabulary"),
        parameters=total,
        active_parameters=total - idle,
        lookup_parameters=looked_up,
        full_layers=mixers.count("full"),
        sliding_layers=mixers.count("sliding"),
        window=window_of(text) if "sliding" in mixers else 0,
        state_bytes=recurrent_layers * recurrent.state_bytes,
        latent=attention.latent,
        expert_parameters=sparse_layers * sparse.experts * sparse.expert,
        experts=sparse.experts,
        experts_per_token=sparse.experts_per_token,
        max_length=_max_length(text),
        weight_format=weight_format(text, outer),
    )


def _norms(config: Config, family: Family, layers: int) -> int:
    count = layers * family.norms + family.final_norm + family.embedding_norm
    return family.norm_weights * config.integer("hidden") * count


def _embeddings(text: Config, outer: Config, family: Family) -> tuple[int, int]:
    """Parameters of embedding, positions and head; and how many are only looked up."""
    d, vocabulary = text.integer("hidden"), text.integer("vocabulary")
    width = text.integer("embedding_width", d)
    table = vocabulary * width
    positions = (
        0 if family.positions is None else (text.integer("max_length") + family.positions) * d
    )
    projections = 0 if width == d else 2 * width * d
    tied = text.flag("tie_word_embeddings", outer.flag("tie_word_embeddings", family.tied))
    head = (0 if tied else table) + (vocabulary if is_on(family.head_bias, text) else 0)
    return table + positions + projections + head, positions + (0 if tied else table)


def _max_length(config: Config) -> int:
    """Tokens, with YaRN's extension (arXiv:2309.00071) where the file has one."""
    length = config.integer("max_length", 2048)
    scaling = config.section("rope_scaling") or config.section("rope_parameters")
    kind = scaling.get("rope_type", scaling.get("type"))
    original = scaling.get("original_max_position_embeddings")
    factor = scaling.get("factor")
    if kind != "yarn" or not isinstance(original, int) or not isinstance(factor, int | float):
        return length
    if not 1 <= factor <= 1024:
        raise InvalidRequest(
            f"config.json: `rope_scaling.factor` is {factor}; it must be a number from 1 to 1024",
            field="rope_scaling.factor",
        )
    return max(length, round(original * factor))
