"""What a decoder computes, as plain data. Imports no torch: the control plane asks first.

The defaults are Llama's; `families` reads a config.json into one of these.
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from foundry.engines.model_files import CONFIG
from foundry.errors import InvalidArtifact, UnsupportedFeature

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]
Activation = Literal["silu", "gelu", "gelu_tanh"]
# pre: norms before attention and feed-forward (Llama); post: after them (OLMo 2); both (Gemma 2).
NormPlacement = Literal["pre", "post", "both"]
QkNorm = Literal["head", "projection"]


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (arXiv:2104.09864) and how it is stretched to longer contexts.

    Attributes:
        theta: base wavelength.
        size: leading dimensions of each head that are rotated; even.
        factor: by which the context is stretched; 1 for `default`.
        original_length: tokens of the context before stretching.
        amplitude: of cos and sin (`attention_factor` of YaRN and LongRoPE).
        low_freq_factor, high_freq_factor: Llama 3's bounds, in turns per original context.
        ramp: YaRN's bounds as dimensions: below the first nothing is stretched, above the second
            everything.
        short_factor, long_factor: LongRoPE's stretch per pair of dimensions, for segments of at
            most `original_length` tokens and for longer ones.
    """

    kind: RopeKind
    theta: float
    size: int
    factor: float = 1.0
    original_length: int = 0
    amplitude: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    ramp: tuple[float, float] = (0.0, 0.0)
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    @property
    def steady_length(self) -> int | None:
        """Tokens of a segment above which its frequencies depend on its length; None: never."""
        return self.original_length if self.kind in ("dynamic", "longrope") else None


@dataclass(frozen=True, slots=True)
class Experts:
    """A routed feed-forward network.

    Attributes:
        count: experts of a layer.
        per_token: experts that a token is sent to.
        width: inner size of one expert.
        normalised: the weights of a token's experts sum to one.
    """

    count: int
    per_token: int
    width: int
    normalised: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer does differently from its neighbours.

    Attributes:
        window: tokens that each token sees, itself among them; None: all before it.
        rope: None: positions are not encoded (arXiv:2305.19466).
        sparse: the feed-forward network is `DecoderConfig.experts`.
    """

    rope: Rope | None
    window: int | None = None
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The part of config.json that decides the computation.

    Attributes:
        architecture: the name in config.json, which also decides how weights are stored.
        qkv_bias, o_bias, mlp_bias: projections with a bias.
        fused: q, k and v are one matrix, gate and up another (Phi-3).
        qk_norm: queries and keys are normalised, per head or over the whole projection.
        norm_offset: added to the weights of norms; Gemma stores them less one.
        embedding_scale: of the embeddings, as the layers see them.
        residual_scale: of what attention and feed-forward add to the residual stream.
        attention_scale: of the scores; None: head_dim^-½.
        attention_softcap: scores become softcap·tanh(score/softcap).
        logit_scale: of the logits. The decoder scales the hidden states that it returns.
        logit_softcap: as above, for logits; whoever computes logits from hidden states applies it.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    layers: tuple[Layer, ...]
    activation: Activation = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    fused: bool = False
    qk_norm: QkNorm | None = None
    norm_placement: NormPlacement = "pre"
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    experts: Experts | None = None

    @classmethod
    def load(cls, model_dir: Path) -> Self:
        """Read config.json.

        Raises:
            InvalidArtifact: missing, not JSON, or incomplete.
            UnsupportedFeature: another architecture, or a variant that this decoder lacks.
        """
        try:
            document = json.loads((model_dir / CONFIG).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidArtifact(f"config.json of {model_dir.name} cannot be read") from error
        return cls.of(document)

    @classmethod
    def of(cls, document: object) -> Self:
        """Read a parsed config.json; raises the same as `load`."""
        # Families build what is defined here.
        from foundry.engines.training.decoder.families.table import read_config

        config = read_config(document)
        assert isinstance(config, cls)
        return config

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layers)

    @property
    def steady_length(self) -> int | None:
        """Tokens of a segment above which rotary frequencies depend on its length; None: never."""
        lengths = [layer.rope.steady_length for layer in self.layers if layer.rope is not None]
        return min((length for length in lengths if length is not None), default=None)

    def is_stretched(self, length: int) -> bool:
        """Whether a sequence of that length and all longer ones have the same frequencies."""
        ropes = {layer.rope for layer in self.layers if layer.rope is not None}
        return all(
            rope.steady_length is None or (rope.kind == "longrope" and length > rope.steady_length)
            for rope in ropes
        )

    def most_fragments(self, targets: Collection[str] | None) -> int:
        """Into how many parts DiLoCo can cut what is trained, so that none is empty.

        Args:
            targets: what gets an adapter; None: every weight is trained.
        """
        if targets is None:
            # Beside the layers: the embedding, the last norm, and a head that is not the embedding.
            return self.num_hidden_layers + 2 + (not self.tie_word_embeddings)
        in_layers = self.num_hidden_layers if {"attn", "mlp"}.intersection(targets) else 0
        # The two factors of the head's adapter.
        return in_layers + 2 * ("unembed" in targets)

    def check_adapter_targets(self, targets: Iterable[str]) -> None:
        """Refuse adapters that no engine serves.

        Raises:
            UnsupportedFeature: on routed experts: PEFT and vLLM disagree on their layout.
        """
        if self.experts is not None and "mlp" in targets:
            raise UnsupportedFeature(
                f"adapters on the experts of {self.architecture} are not supported: "
                'set method.targets to ["attn"], or train every weight with method.kind "full"'
            )

    def check_served_targets(self, targets: Iterable[str]) -> None:
        """Refuse adapters of a base that engines could not serve with it, as well.

        Raises:
            UnsupportedFeature: vLLM finds no lm_head to put an adapter on where embeddings are
                tied.
        """
        targets = tuple(targets)
        self.check_adapter_targets(targets)
        if self.tie_word_embeddings and "unembed" in targets:
            raise UnsupportedFeature(
                "targets has unembed, but the base's lm_head is its embedding, and an adapter of "
                "it could not be served: leave unembed out, or train every weight"
            )
