"""Checked reading of a `config.json`: one canonical name for what families name differently."""

from collections.abc import Mapping, Sequence

from foundry.errors import InvalidRequest

ALIASES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "model_dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim", "attention_head_dim"),
    "ffn": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "dense_ffn": ("intermediate_size_mlp",),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "max_length": (
        "max_position_embeddings", "n_positions", "max_seq_len", "seq_length",
    ),
    "window": ("sliding_window",),
    "chunk": ("attention_chunk_size",),
    "max_window_layers": ("max_window_layers",),
    "embedding_width": ("word_embed_proj_dim",),
    "expansion": ("expansion_ratio",),
    # Multi-head latent attention and its sparse index.
    "q_lora_rank": ("q_lora_rank",),
    "kv_lora_rank": ("kv_lora_rank",),
    "qk_rope_dim": ("qk_rope_head_dim",),
    "qk_nope_dim": ("qk_nope_head_dim",),
    "v_dim": ("v_head_dim",),
    "index_heads": ("index_n_heads",),
    "index_dim": ("index_head_dim",),
    # Mixture of experts.
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "experts_per_token": ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"),
    "expert_ffn": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "shared_experts": ("n_shared_experts", "num_shared_experts"),
    "shared_ffn": (
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
    ),
    "first_dense": ("first_k_dense_replace",),
    "sparse_step": ("decoder_sparse_step",),
    "sparse_interleave": ("interleave_moe_layer_step",),
    "expert_period": ("expert_layer_period",),
    "expert_offset": ("expert_layer_offset",),
    # Recurrent layers.
    "attention_interval": ("full_attention_interval",),
    "attention_period": ("attn_layer_period",),
    "attention_offset": ("attn_layer_offset",),
    "delta_key_heads": ("linear_num_key_heads",),
    "delta_value_heads": ("linear_num_value_heads",),
    "delta_key_dim": ("linear_key_head_dim",),
    "delta_value_dim": ("linear_value_head_dim",),
    "delta_kernel": ("linear_conv_kernel_dim",),
    "ssm_heads": ("mamba_n_heads", "mamba_num_heads"),
    "ssm_head_dim": ("mamba_d_head", "mamba_head_dim"),
    "ssm_state": ("mamba_d_state", "ssm_state_size"),
    "ssm_groups": ("mamba_n_groups", "n_groups"),
    "ssm_kernel": ("mamba_d_conv", "conv_kernel"),
    "ssm_expand": ("mamba_expand", "expand"),
    "ssm_rank": ("mamba_dt_rank",),
}  # fmt: skip

# Beyond any published model by two orders of magnitude: a slip, or an attack on the arithmetic.
_LIMIT = 2**24
MAX_LAYERS = 10_000
_LIMITS = {"layers": MAX_LAYERS, "vocabulary": 2**28, "max_length": 2**32, "window": 2**32}
_MAY_BE_ZERO = frozenset(
    {"experts", "shared_experts", "shared_ffn", "first_dense", "sparse_step", "expert_offset",
     "attention_offset", "window", "max_window_layers"}
)  # fmt: skip
# `auto` in Mamba configurations means: derive it.
_ABSENT = (None, "auto")


class Config:
    """A `config.json` whose numbers are checked when they are read.

    Args:
        values: the text model's part.
        defaults: canonical name → value where the file leaves a quantity out.
        fixed: canonical name → value whatever the file says.
    """

    def __init__(
        self,
        values: Mapping[str, object],
        *,
        defaults: Mapping[str, int] | None = None,
        fixed: Mapping[str, int] | None = None,
    ) -> None:
        self.values = values
        self._defaults = defaults or {}
        self._fixed = fixed or {}

    def integer(self, name: str, default: int | None = None) -> int:
        """The quantity of this canonical name.

        Raises:
            InvalidRequest: it is absent without a default, no integer, or out of range.
        """
        found = self.optional(name)
        if found is not None:
            return found
        if default is None:
            raise InvalidRequest(
                f"config.json lacks `{ALIASES[name][0]}`; budsim reads it from "
                f"{' or '.join(ALIASES[name])}",
                field=ALIASES[name][0],
            )
        return default

    def optional(self, name: str) -> int | None:
        """As `integer`; None where the file and the family's defaults say nothing."""
        if name in self._fixed:
            return self._fixed[name]
        for key in ALIASES[name]:
            value = self.values.get(key)
            if value not in _ABSENT:
                return checked_integer(
                    key, value, low=0 if name in _MAY_BE_ZERO else 1, high=_LIMITS.get(name, _LIMIT)
                )
        return self._defaults.get(name)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise _invalid(key, value, "true or false")
        return value

    def text(self, key: str) -> str:
        """A string; empty where absent."""
        value = self.values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _invalid(key, value, "a string")
        return value

    def section(self, key: str) -> Mapping[str, object]:
        """A nested object; empty where absent."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise _invalid(key, value, "an object")
        return value

    def sequence(self, key: str) -> Sequence[object] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise _invalid(key, value, "a list")
        return value

    def layer_indices(self, key: str) -> frozenset[int] | None:
        """A list of layer numbers, counted from 0; None where absent."""
        values = self.sequence(key)
        if values is None:
            return None
        return frozenset(checked_integer(key, value, low=0, high=MAX_LAYERS) for value in values)


def checked_integer(key: str, value: object, *, low: int, high: int) -> int:
    """`value` where it is an integer in [low, high]; booleans are none.

    Raises:
        InvalidRequest: names the key and the range.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _invalid(key, value, f"an integer from {low} to {high}")
    return value


def _invalid(key: str, value: object, accepted: str) -> InvalidRequest:
    return InvalidRequest(
        f"config.json: `{key}` is {str(value)[:80]!r}; it must be {accepted}", field=key
    )
