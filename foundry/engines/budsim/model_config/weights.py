"""Parameter counts and cached values of each part of a layer, from its shape.

Legend: d hidden width, h query heads, g key and value heads, e dimension of one head, f width of
the feed-forward network.
"""

from dataclasses import dataclass

from foundry.engines.budsim.model_config.families import Family, is_on
from foundry.engines.budsim.model_config.fields import Config
from foundry.errors import InvalidRequest

# Engines keep convolution tails in the activations' format, recurrent states in fp32.
_TAIL_BYTES = 2
_STATE_BYTES = 4


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """`kv_width` counts values cached per token; `head_dim` is of queries and keys."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_width: float
    latent: bool
    parameters: int


@dataclass(frozen=True, slots=True)
class RecurrentShape:
    """`state_bytes` of one sequence, whatever its length."""

    parameters: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class SparseShape:
    """`parameters` of all parts of the block; `expert` of one routed expert of `ffn` width."""

    ffn: int
    experts: int
    experts_per_token: int
    expert: int
    parameters: int


NO_RECURRENCE = RecurrentShape(0, 0)
NO_EXPERTS = SparseShape(0, 0, 0, 0, 0)


def attention(config: Config, family: Family) -> AttentionShape:
    """Raises InvalidRequest where the heads cannot share keys and values."""
    heads = config.integer("heads")
    if config.optional("kv_lora_rank") is not None:
        return _latent_attention(config, family, heads)
    d = config.integer("hidden")
    kv_heads = config.integer("kv_heads", heads)
    if heads % kv_heads:
        raise InvalidRequest(
            f"config.json: {heads} query heads cannot share {kv_heads} key heads evenly; "
            "`num_key_value_heads` must divide `num_attention_heads`",
            field="num_key_value_heads",
        )
    head_dim = config.integer("head_dim", max(1, d // heads))
    query, key = heads * head_dim, kv_heads * head_dim
    query_out = query * (2 if family.output_gate else 1)
    total = d * (query_out + 2 * key) + query * d
    if is_on(family.qkv_bias, config):
        total += query_out + 2 * key
    if is_on(family.o_bias, config):
        total += d
    if family.qk_norm and is_on(family.qk_normed, config):
        total += 2 * head_dim if family.qk_norm == "head" else query + key
    if family.sinks:
        total += heads
    return AttentionShape(heads, kv_heads, head_dim, 2 * key, False, total)


def _latent_attention(config: Config, family: Family, heads: int) -> AttentionShape:
    """Multi-head latent attention (arXiv:2405.04434, section 2.1) and, where configured, the
    index of sparse attention, which caches one fp8 key and an fp32 scale per token."""
    d = config.integer("hidden")
    rank, rope = config.integer("kv_lora_rank"), config.integer("qk_rope_dim")
    nope, value = config.integer("qk_nope_dim"), config.integer("v_dim")
    q_rank = config.optional("q_lora_rank")
    query = heads * (nope + rope)
    total = d * query if q_rank is None else d * q_rank + q_rank + q_rank * query
    total += d * (rank + rope) + rank + rank * heads * (nope + value) + heads * value * d
    if is_on(family.qkv_bias, config):
        total += (q_rank or 0) + rank + rope + d
    width = float(rank + rope)
    index_dim = config.optional("index_dim")
    if index_dim is not None and q_rank is not None:
        index_heads = config.integer("index_heads")
        total += index_heads * (q_rank * index_dim + d) + d * index_dim + 2 * index_dim
        width += (index_dim + _STATE_BYTES) / _TAIL_BYTES
    return AttentionShape(heads, 1, nope + rope, width, True, total)


def dense(config: Config, family: Family, width: int) -> int:
    """A feed-forward network of this width; 0 without one."""
    d = config.integer("hidden")
    branches = 2 if family.gated else 1
    bias = branches * width + d if is_on(family.mlp_bias, config) else 0
    return (branches + 1) * d * width + bias if width else 0


def dense_width(config: Config, family: Family) -> int:
    """Of a layer without experts."""
    default = family.ffn_ratio * config.integer("hidden") or None
    return config.optional("dense_ffn") or config.integer("ffn", default)


def sparse(config: Config, family: Family) -> SparseShape:
    """Router, routed experts and shared experts of one layer.

    Raises:
        InvalidRequest: a token would visit more experts than there are.
    """
    d, experts = config.integer("hidden"), config.integer("experts")
    per_token = config.integer("experts_per_token")
    if per_token > experts:
        raise InvalidRequest(
            f"config.json: a token cannot visit {per_token} of {experts} experts; "
            "`num_experts_per_tok` is too large",
            field="num_experts_per_tok",
        )
    ffn = config.optional("expert_ffn") or config.integer("ffn")
    branches = 2 if family.gated else 1
    expert = (branches + 1) * d * ffn + (branches * ffn + d if family.expert_bias else 0)
    router = d * experts + (experts if family.router_bias else 0)
    shared_width = config.optional("shared_ffn")
    if shared_width is None:
        shared_width = ffn * config.integer("shared_experts", 0)
    shared = dense(config, family, shared_width) + (d if family.shared_gate else 0)
    return SparseShape(ffn, experts, per_token, expert, router + experts * expert + shared)


def recurrent(config: Config, family: Family) -> RecurrentShape:
    """The family's recurrent mixer."""
    match family.recurrence:
        case "delta":
            return _gated_delta_net(config)
        case "mamba2":
            return _mamba2(config)
        case "mamba":
            return _mamba(config)
        case "lightning":
            return _lightning_attention(config)
        case None:
            raise InvalidRequest(
                f"config.json: budsim does not know the recurrent layers of model type "
                f"{config.text('model_type')!r}",
                field="layer_types",
            )


def _gated_delta_net(config: Config) -> RecurrentShape:
    """arXiv:2412.06464; fused or split input projections have equal sizes."""
    d, kernel = config.integer("hidden"), config.integer("delta_kernel")
    value_heads, value_dim = config.integer("delta_value_heads"), config.integer("delta_value_dim")
    key_dim = config.integer("delta_key_dim")
    keys, values = config.integer("delta_key_heads") * key_dim, value_heads * value_dim
    channels = 2 * keys + values
    total = d * (channels + values + 2 * value_heads) + channels * kernel
    total += 2 * value_heads + value_dim + values * d
    state = value_heads * key_dim * value_dim * _STATE_BYTES
    return RecurrentShape(total, state + channels * (kernel - 1) * _TAIL_BYTES)


def _mamba2(config: Config) -> RecurrentShape:
    """arXiv:2405.21060."""
    d, kernel = config.integer("hidden"), config.integer("ssm_kernel")
    heads = config.integer("ssm_heads")
    derived = max(1, config.integer("ssm_expand", 2) * d // heads)
    head_dim = config.integer("ssm_head_dim", derived)
    inner, state = heads * head_dim, config.integer("ssm_state")
    channels = inner + 2 * config.integer("ssm_groups") * state
    projected = inner + channels + heads
    total = d * projected + channels * kernel + 3 * heads + inner * d
    if config.flag("mamba_conv_bias", config.flag("use_conv_bias", default=True)):
        total += channels
    if config.flag("mamba_proj_bias") or config.flag("projectors_bias"):
        total += projected + d
    if config.flag("mamba_rms_norm", default=True):
        total += inner
    cached = inner * state * _STATE_BYTES + channels * (kernel - 1) * _TAIL_BYTES
    return RecurrentShape(total, cached)


def _mamba(config: Config) -> RecurrentShape:
    """arXiv:2312.00752, with Jamba's three norms (arXiv:2403.19887)."""
    d, kernel = config.integer("hidden"), config.integer("ssm_kernel")
    inner, state = config.integer("ssm_expand", 2) * d, config.integer("ssm_state")
    rank = config.integer("ssm_rank", -(-d // 16))
    total = 3 * d * inner + inner * kernel + inner * (rank + 2 * state) + rank * inner + inner
    total += inner * state + inner + rank + 2 * state
    if config.flag("mamba_conv_bias", default=True):
        total += inner
    if config.flag("mamba_proj_bias"):
        total += 2 * inner + d
    cached = inner * state * _STATE_BYTES + inner * (kernel - 1) * _TAIL_BYTES
    return RecurrentShape(total, cached)


def _lightning_attention(config: Config) -> RecurrentShape:
    """arXiv:2501.08313."""
    d, heads = config.integer("hidden"), config.integer("heads")
    head_dim = config.integer("head_dim", max(1, d // heads))
    width = heads * head_dim
    return RecurrentShape(5 * d * width + width, width * head_dim * _STATE_BYTES)
