"""What each model family does differently from Llama, as a table.

Checked parameter by parameter against the modules of transformers, see the tests. A quantity that
the configuration decides is a `Switch`; a family whose structure it decides is a function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from foundry.engines.budsim.model_config.fields import Config


@dataclass(frozen=True, slots=True)
class Switch:
    """A feature that this key of the configuration turns on."""

    key: str
    default: bool = False


Flag = bool | Switch
Recurrence = Literal["delta", "mamba", "mamba2", "lightning"]


@dataclass(frozen=True, slots=True)
class Family:
    """The defaults are Llama's.

    Attributes:
        qkv_bias, o_bias, mlp_bias: linear layers with a bias.
        qk_norm: `head`: one weight per head dimension, shared by the heads; `width`: one per
            output of the projection.
        qk_normed: whether the norm exists.
        output_gate: the query projection also gives a gate of its own width.
        sinks: one learned logit per head.
        gated: the feed-forward network has a gate projection.
        ffn_ratio: width of the feed-forward network over d, where the file gives none.
        norm_weights: per norm and channel: 2 with a bias, 0 without learned weights.
        norms: per layer.
        final_norm: after the last layer.
        embedding_norm: after the embedding.
        positions: offset of the learned position table; None without one.
        tied: whether the head shares the embedding, where the file does not say.
        head_bias: of the language model head.
        router_bias, expert_bias: in a mixture of experts.
        shared_gate: a learned gate on the shared expert.
        period: every so many layers one sees the whole context, the others a sliding window;
            1: all slide; 0: none does. Used where the file has no `layer_types`.
        recurrence: what `linear_attention` or `mamba` layers are.
        parallel_recurrence: every layer is attention and recurrence side by side.
        defaults: canonical name → value where the file leaves a quantity out.
        fixed: canonical name → value whatever the file says.
        exact: the table describes this family; False: it is treated like Llama.
    """

    qkv_bias: Flag = Switch("attention_bias")
    o_bias: Flag = Switch("attention_bias")
    mlp_bias: Flag = Switch("mlp_bias")
    qk_norm: Literal["head", "width"] | None = None
    qk_normed: Flag = True
    output_gate: bool = False
    sinks: bool = False
    gated: bool = True
    ffn_ratio: int = 0
    norm_weights: int = 1
    norms: int = 2
    final_norm: bool = True
    embedding_norm: bool = False
    positions: int | None = None
    tied: bool = False
    head_bias: Flag = False
    router_bias: bool = False
    expert_bias: bool = False
    shared_gate: bool = False
    period: int = 0
    recurrence: Recurrence | None = None
    parallel_recurrence: bool = False
    defaults: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    exact: bool = True


def _opt(config: Config) -> Family:
    bias = Switch("enable_bias", default=True)
    return Family(
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        gated=False,
        norm_weights=2 if config.flag("layer_norm_elementwise_affine", default=True) else 0,
        final_norm=config.flag("do_layer_norm_before", default=True)
        and not config.flag("_remove_final_layer_norm"),
        positions=2,
        tied=True,
    )


def _falcon(config: Config) -> Family:
    heads = config.integer("heads")
    modern = config.flag("new_decoder_architecture")
    shared_norm = config.flag("parallel_attn", default=True) and (
        not modern or config.values.get("num_ln_in_parallel_attn") == 1
    )
    # Without the new architecture the model ignores the file's num_kv_heads.
    old_heads = {"kv_heads": 1 if config.flag("multi_query", default=True) else heads}
    return Family(
        qkv_bias=Switch("bias"),
        o_bias=Switch("bias"),
        mlp_bias=Switch("bias"),
        gated=False,
        norm_weights=2,
        norms=1 if shared_norm else 2,
        ffn_ratio=4,
        tied=True,
        fixed={} if modern else old_heads,
    )


def _mpt(config: Config) -> Family:
    ratio = config.integer("expansion", 4)
    return Family(False, False, False, gated=False, tied=True, ffn_ratio=ratio)


def _gpt_bigcode(config: Config) -> Family:
    return replace(GPT2, fixed={"kv_heads": 1}) if config.flag("multi_query", True) else GPT2


def _granite_hybrid(config: Config) -> Family:
    """Without experts the shared network is the only one."""
    family = Family(recurrence="mamba2")
    if config.integer("experts", 0):
        return family
    return replace(family, fixed={"ffn": config.integer("shared_ffn")})


def _nemotron_h(config: Config) -> Family:
    """Experts that work in a narrower latent space are not described here."""
    exact = config.values.get("moe_latent_size") is None
    return Family(gated=False, norms=1, recurrence="mamba2", exact=exact)


def _stablelm(config: Config) -> Family:
    return Family(
        qkv_bias=Switch("use_qkv_bias"),
        o_bias=False,
        qk_norm="width",
        qk_normed=Switch("qk_layernorm"),
        norm_weights=2,
        norms=1 if config.flag("use_parallel_residual") else 2,
    )


LLAMA = Family()
GPT2 = Family(True, True, True, gated=False, ffn_ratio=4, norm_weights=2, positions=0, tied=True)
GPTJ = Family(False, False, True, gated=False, ffn_ratio=4, norm_weights=2, norms=1, head_bias=True)
BLOOM = replace(GPT2, positions=None, embedding_norm=True)
NEOX_BIAS = Switch("attention_bias", default=True)
NEOX = Family(NEOX_BIAS, NEOX_BIAS, True, gated=False, norm_weights=2)
PHI = Family(
    True, True, True, gated=False, norm_weights=2, norms=1, head_bias=True,
    qk_norm="head", qk_normed=Switch("qk_layernorm"),
)  # fmt: skip
STARCODER_BIAS = Switch("use_bias", default=True)
STARCODER2 = Family(
    STARCODER_BIAS, STARCODER_BIAS, STARCODER_BIAS,
    gated=False, norm_weights=2, tied=True, period=1,
)  # fmt: skip
SLIDING = Family(period=1)
QWEN2 = Family(qkv_bias=True, o_bias=False)
QWEN2_MOE = Family(qkv_bias=Switch("qkv_bias", default=True), o_bias=False, shared_gate=True)
QWEN3 = Family(qk_norm="head", defaults={"head_dim": 128})
QWEN3_NEXT = Family(
    qk_norm="head", output_gate=True, shared_gate=True, recurrence="delta",
    defaults={"attention_interval": 4, "head_dim": 256},
)  # fmt: skip
GEMMA = Family(tied=True, defaults={"head_dim": 256})
GEMMA2 = replace(GEMMA, norms=4, period=2)
# Published multimodal files leave out what equals the class's defaults.
GEMMA3 = replace(
    GEMMA2, qk_norm="head", period=6,
    defaults={
        "head_dim": 256, "heads": 8, "kv_heads": 4, "vocabulary": 262208, "max_length": 131072,
    },
)  # fmt: skip
COHERE = Family(tied=True, norms=1, qk_norm="width", qk_normed=Switch("use_qk_norm"))
COHERE2 = Family(tied=True, norms=1, period=4)
OLMO2 = Family(qk_norm="width")
GLM = Family(qkv_bias=Switch("attention_bias", default=True), o_bias=False)
GLM4_MOE = Family(o_bias=False, qk_norm="head", qk_normed=Switch("use_qk_norm"))
GPT_OSS = Family(
    True, True, sinks=True, router_bias=True, expert_bias=True, period=2,
    defaults={"head_dim": 64},
)  # fmt: skip

FAMILIES: dict[str, Family | Callable[[Config], Family]] = {
    "bamba": Family(recurrence="mamba2"),
    "bloom": BLOOM,
    "codegen": GPTJ,
    "cohere": COHERE,
    "cohere2": COHERE2,
    "deepseek_v2": LLAMA,
    "deepseek_v3": LLAMA,
    "deepseek_v32": LLAMA,
    "ernie4_5": Family(Switch("use_bias"), Switch("use_bias"), Switch("use_bias"), tied=True),
    "exaone4": Family(qk_norm="head", period=4),
    "falcon": _falcon,
    "falcon_h1": Family(recurrence="mamba2", parallel_recurrence=True),
    "gemma": GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "glm": GLM,
    "glm4": replace(GLM, norms=4),
    "glm4_moe": GLM4_MOE,
    "glm4_moe_lite": LLAMA,
    "glm_moe_dsa": LLAMA,
    "gpt2": GPT2,
    "gpt_bigcode": _gpt_bigcode,
    "gpt_neox": NEOX,
    "gpt_oss": GPT_OSS,
    "gptj": GPTJ,
    "granite": LLAMA,
    "granitemoe": LLAMA,
    "granitemoehybrid": _granite_hybrid,
    "granitemoeshared": LLAMA,
    "hunyuan_v1_dense": Family(qk_norm="head"),
    "jamba": Family(recurrence="mamba"),
    "kimi_k2": LLAMA,
    "llama": LLAMA,
    "llama4_text": Family(period=4, fixed={"shared_experts": 1}),
    "minimax": Family(recurrence="lightning"),
    "minimax_m2": Family(qk_norm="width"),
    "ministral": SLIDING,
    "ministral3": SLIDING,
    "mistral": SLIDING,
    "mixtral": SLIDING,
    "mpt": _mpt,
    "nemotron": Family(gated=False, norm_weights=2),
    "nemotron_h": _nemotron_h,
    "olmo": Family(norm_weights=0, final_norm=False),
    "olmo2": OLMO2,
    "olmo3": replace(OLMO2, period=4),
    "olmoe": OLMO2,
    "opt": _opt,
    "phi": PHI,
    "phi3": SLIDING,
    "phimoe": Family(norm_weights=2, head_bias=Switch("lm_head_bias")),
    "qwen2": QWEN2,
    "qwen2_5_vl": QWEN2,
    "qwen2_5_vl_text": QWEN2,
    "qwen2_moe": QWEN2_MOE,
    "qwen2_vl": QWEN2,
    "qwen2_vl_text": QWEN2,
    "qwen3": QWEN3,
    "qwen3_5_moe_text": QWEN3_NEXT,
    "qwen3_5_text": QWEN3_NEXT,
    "qwen3_moe": replace(QWEN3, defaults={}),
    "qwen3_next": QWEN3_NEXT,
    "qwen3_vl_moe_text": replace(QWEN3, defaults={}),
    "qwen3_vl_text": QWEN3,
    "seed_oss": Family(
        qkv_bias=Switch("attention_bias", default=True), o_bias=Switch("attention_out_bias")
    ),
    "smollm3": replace(LLAMA, tied=True),
    "stablelm": _stablelm,
    "starcoder2": STARCODER2,
}


def family_of(config: Config) -> tuple[Family, Config]:
    """The family of `model_type`, and the configuration with the family's defaults.

    An unknown type is read like Llama and marked `exact=False`.
    """
    entry = FAMILIES.get(config.text("model_type"), replace(LLAMA, exact=False))
    family = entry if isinstance(entry, Family) else entry(config)
    return family, Config(config.values, defaults=family.defaults, fixed=family.fixed)


def is_on(flag: Flag, config: Config) -> bool:
    return flag if isinstance(flag, bool) else config.flag(flag.key, flag.default)
