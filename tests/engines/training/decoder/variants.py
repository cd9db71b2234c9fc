"""Random configurations of every family that people fine-tune, as config.json holds them.

A label is a model people know; several share one architecture. `random_document` draws what a
family leaves open: heads, ties, windows shorter than a sequence, biases, rotary scaling.
"""

import random
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]
Draw = Callable[[random.Random, Document], Document]

_LONG = 256


def random_document(label: str, seed: int) -> Document:
    """A small config.json of a family: hidden 32 to 48, 2 to 4 layers, 211 to 256 tokens."""
    rng = random.Random(f"{label} {seed}")
    heads = rng.choice((2, 4))
    document: Document = {
        "vocab_size": rng.choice((211, 256)),
        "hidden_size": rng.choice((32, 48)),
        "intermediate_size": rng.choice((40, 56)),
        "num_hidden_layers": rng.choice((2, 3, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice((1, 2, heads)),
        "max_position_embeddings": _LONG,
        "rms_norm_eps": rng.choice((1e-6, 1e-5)),
        "tie_word_embeddings": rng.random() < 0.5,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return document | FAMILIES[label](rng, document)


def _bias(rng: random.Random, *names: str) -> Document:
    return {name: rng.random() < 0.4 for name in names}


def _scaling(rng: random.Random, *kinds: str) -> Document:
    """Rotary scaling with a context short enough that the tests reach beyond it."""
    kind = rng.choice(kinds)
    document: Document = {"rope_type": kind, "rope_theta": rng.choice((1e4, 5e5))}
    if kind != "default":
        document["factor"] = rng.choice((2.0, 8.0))
    if kind in ("llama3", "yarn"):
        document["original_max_position_embeddings"] = 16
    if kind == "llama3":
        document |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "yarn" and rng.random() < 0.5:
        document |= {"mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 16.0, "truncate": False}
    context = {"max_position_embeddings": 16} if kind == "dynamic" else {}
    return {"rope_parameters": document, **context}


def _llama2(rng: random.Random, document: Document) -> Document:
    kinds = _scaling(rng, "default", "linear", "dynamic", "yarn")
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **kinds}


def _llama3(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": rng.choice((8, 16)),
        **_bias(rng, "attention_bias", "mlp_bias"),
        **_scaling(rng, "llama3"),
    }


def _smollm2(rng: random.Random, document: Document) -> Document:
    # As published: the spelling of transformers 4.
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "is_llama_config": True,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100_000,
    }


def _smollm3(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "num_hidden_layers": 4,
        "no_rope_layer_interval": rng.choice((2, 4)),
        "use_sliding_window": rng.random() < 0.5,
        "sliding_window": 5,
        **_bias(rng, "attention_bias", "mlp_bias"),
        **_scaling(rng, "default", "yarn"),
    }


def _qwen_window(rng: random.Random) -> Document:
    return {
        "use_sliding_window": rng.random() < 0.5,
        "sliding_window": rng.choice((1, 6)),
        "max_window_layers": 1,
    }


def _qwen2(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **_qwen_window(rng),
        **_scaling(rng, "default", "yarn", "dynamic"),
    }


def _qwen3(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": rng.choice((8, 16)),
        **_qwen_window(rng),
        **_bias(rng, "attention_bias"),
        **_scaling(rng, "default", "yarn"),
    }


def _qwen3_moe(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "head_dim": 16,
        "num_experts": rng.choice((4, 7)),
        "num_experts_per_tok": rng.choice((1, 2, 3)),
        "moe_intermediate_size": 24,
        "decoder_sparse_step": rng.choice((1, 2)),
        "mlp_only_layers": rng.choice(([], [1])),
        "norm_topk_prob": rng.random() < 0.5,
        "use_sliding_window": rng.random() < 0.5,
        "sliding_window": 6,
    }


def _mistral(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "head_dim": rng.choice((None, 16)),
        "sliding_window": rng.choice((None, 1, 7)),
        "rope_theta": 1e6,
    }


def _mixtral(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": rng.choice((4, 8)),
        "num_experts_per_tok": rng.choice((1, 2)),
        "sliding_window": rng.choice((None, 7)),
        "rope_theta": 1e6,
    }


def _gemma(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "head_dim": 16,
        "hidden_act": rng.choice(("gelu", "gelu_pytorch_tanh")),
        "rope_theta": 1e4,
    }


def _gemma2(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "head_dim": 16,
        "query_pre_attn_scalar": rng.choice((16, 24)),
        "attn_logit_softcapping": rng.choice((2.0, 50.0, None)),
        "final_logit_softcapping": rng.choice((1.5, 30.0)),
        "sliding_window": rng.choice((1, 6)),
    }


def _gemma3(rng: random.Random, document: Document) -> Document:
    kinds = ["sliding_attention", "full_attention"]
    layers = document["num_hidden_layers"]
    older: Document = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 2}
    older["rope_scaling"] = rng.choice((None, {"rope_type": "linear", "factor": 8.0}))
    newer = {
        "layer_types": [rng.choice(kinds) for _ in range(layers)],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "head_dim": 16,
        "query_pre_attn_scalar": rng.choice((16, 24)),
        "final_logit_softcapping": rng.choice((None, 2.0)),
        "sliding_window": rng.choice((1, 6)),
        **rng.choice((older, newer)),
    }


def _longrope(pairs: int) -> Document:
    return {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [2.0 + 0.5 * i for i in range(pairs)],
    }


def _phi3(rng: random.Random, document: Document) -> Document:
    size = document["hidden_size"] // document["num_attention_heads"]
    long = {"rope_scaling": _longrope(size // 2), "original_max_position_embeddings": 16}
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "sliding_window": rng.choice((None, 6)),
        "rope_theta": 1e4,
        **rng.choice((long, {})),
    }


def _phi4_mini(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_size": 64,
        "partial_rotary_factor": 0.75,
        "rope_scaling": _longrope(int(64 // document["num_attention_heads"] * 0.75) // 2),
        "original_max_position_embeddings": 16,
        "sliding_window": 262_144,
    }


def _olmo2(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        **_bias(rng, "attention_bias"),
        "rope_theta": 5e5,
    }


def _olmo3(rng: random.Random, document: Document) -> Document:
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
    return {
        "architectures": ["Olmo3ForCausalLM"],
        "model_type": "olmo3",
        "num_hidden_layers": 4,
        "sliding_window": 6,
        **rng.choice(({"rope_theta": 5e5, "rope_scaling": yarn}, {})),
    }


def _granite(rng: random.Random, document: Document) -> Document:
    return {
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "embedding_multiplier": 12.0,
        "logits_scaling": rng.choice((8.0, 13.0)),
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.0625,
        **_bias(rng, "attention_bias", "mlp_bias"),
        "rope_theta": 1e4,
    }


FAMILIES: dict[str, Draw] = {
    "llama2": _llama2,
    "llama3": _llama3,
    "smollm2": _smollm2,
    "smollm3": _smollm3,
    "qwen2.5": _qwen2,
    "qwen3": _qwen3,
    "qwen3-moe": _qwen3_moe,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "phi4-mini": _phi4_mini,
    "olmo2": _olmo2,
    "olmo3": _olmo3,
    "granite": _granite,
}
