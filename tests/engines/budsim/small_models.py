"""Small, irregular configurations: no two quantities that could be confused are equal."""

from typing import Any

SMALL = {"vocab_size": 331, "hidden_size": 96, "num_hidden_layers": 5, "intermediate_size": 200}
OPT = {"vocab_size": 331, "hidden_size": 96, "num_hidden_layers": 5, "num_attention_heads": 6,
       "ffn_dim": 130}  # fmt: skip
FALCON = {"vocab_size": 331, "hidden_size": 96, "num_hidden_layers": 5, "num_attention_heads": 6}
MHA = {**SMALL, "num_attention_heads": 6}
GQA = {**MHA, "num_key_value_heads": 2}
WIDE = {**GQA, "head_dim": 24}
OLD = {"vocab_size": 331, "n_embd": 96, "n_layer": 5, "n_head": 6, "n_positions": 77}
EXPERTS = {"num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 56}
LOCAL = {"num_local_experts": 7, "num_experts_per_tok": 3}
MLA = {
    "kv_lora_rank": 40, "q_lora_rank": 56, "qk_rope_head_dim": 16, "qk_nope_head_dim": 24,
    "v_head_dim": 20,
}  # fmt: skip
DEEPSEEK = {
    **MHA, **MLA, "num_key_value_heads": 6, "n_routed_experts": 8, "num_experts_per_tok": 3,
    "moe_intermediate_size": 56, "first_k_dense_replace": 2, "n_shared_experts": 2, "n_group": 1,
    "topk_group": 1,
}  # fmt: skip
INDEX = {"index_n_heads": 3, "index_head_dim": 32, "index_topk": 64}
DELTA = {
    **WIDE, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 12, "linear_value_head_dim": 20,
    "linear_num_key_heads": 4, "linear_num_value_heads": 8,
}  # fmt: skip
MAMBA2 = {
    "mamba_n_heads": 12, "mamba_d_head": 16, "mamba_d_state": 20, "mamba_n_groups": 2,
    "mamba_d_conv": 4, "mamba_expand": 2,
}  # fmt: skip

# name: (model type, configuration)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", OLD),
    "gpt2 inner": ("gpt2", {**OLD, "n_inner": 130, "tie_word_embeddings": False}),
    "gpt_bigcode": ("gpt_bigcode", OLD),
    "gptj": ("gptj", {**OLD, "rotary_dim": 8}),
    "codegen": ("codegen", {**OLD, "n_head": 8, "rotary_dim": 8}),
    "opt": (
        "opt",
        {**OPT, "max_position_embeddings": 77, "word_embed_proj_dim": 96},
    ),
    "opt-350m": (
        "opt",
        {**OPT, "word_embed_proj_dim": 48, "do_layer_norm_before": False},
    ),
    "gpt_neox": ("gpt_neox", MHA),
    "bloom": ("bloom", {"vocab_size": 331, "hidden_size": 96, "n_layer": 5, "n_head": 6}),
    "mpt": (
        "mpt",
        {"vocab_size": 331, "d_model": 96, "n_layers": 5, "n_heads": 6, "expansion_ratio": 4},
    ),
    "falcon-7b": ("falcon", {**FALCON, "multi_query": True, "num_kv_heads": 6}),
    "falcon-40b": ("falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-rw": ("falcon", {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True}),
    "phi": ("phi", GQA),
    "stablelm": ("stablelm", {**GQA, "use_qkv_bias": True, "qk_layernorm": True}),
    "llama": ("llama", GQA),
    "llama biased": (
        "llama",
        {**WIDE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "mistral": ("mistral", {**WIDE, "sliding_window": 64}),
    "ministral": ("ministral", {**WIDE, "sliding_window": 64, "layer_types": None}),
    "qwen2": ("qwen2", GQA),
    "qwen2 sliding": (
        "qwen2",
        {**GQA, "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3},
    ),
    "qwen3": ("qwen3", {**WIDE, "tie_word_embeddings": True}),
    "gemma": ("gemma", WIDE),
    "gemma2": ("gemma2", {**WIDE, "sliding_window": 64}),
    "gemma3_text": ("gemma3_text", {**WIDE, "num_hidden_layers": 13, "sliding_window": 64}),
    "phi3": ("phi3", {**GQA, "pad_token_id": 0}),
    "olmo": ("olmo", GQA),
    "olmo2": ("olmo2", GQA),
    "olmo3": ("olmo3", {**GQA, "sliding_window": 64}),
    "granite": ("granite", GQA),
    "starcoder2": ("starcoder2", GQA),
    "smollm3": ("smollm3", {**GQA, "pad_token_id": 0}),
    "cohere": ("cohere", {**GQA, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**WIDE, "sliding_window": 64}),
    "glm": ("glm", {**WIDE, "pad_token_id": 0}),
    "glm4": ("glm4", {**WIDE, "pad_token_id": 0}),
    "exaone4": ("exaone4", {**WIDE, "sliding_window": 64, "sliding_window_pattern": 4}),
    "seed_oss": ("seed_oss", WIDE),
    "ernie4_5": ("ernie4_5", WIDE),
    "nemotron": ("nemotron", WIDE),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", WIDE),
    "deepseek_v2": ("deepseek_v2", DEEPSEEK),
    "deepseek_v2 lite": ("deepseek_v2", {**DEEPSEEK, "q_lora_rank": None}),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK),
    "deepseek_v32": ("deepseek_v32", {**DEEPSEEK, **INDEX}),
    "glm_moe_dsa": ("glm_moe_dsa", {**DEEPSEEK, **INDEX}),
    "glm4_moe_lite": ("glm4_moe_lite", {**DEEPSEEK, "first_k_dense_replace": 1}),
    "glm4_moe": (
        "glm4_moe",
        {**WIDE, "use_qk_norm": True, "attention_bias": True, "n_routed_experts": 8,
         "num_experts_per_tok": 3, "moe_intermediate_size": 56, "first_k_dense_replace": 2},
    ),
    "mixtral": ("mixtral", {**GQA, **LOCAL}),
    "qwen2_moe": (
        "qwen2_moe",
        {**GQA, **EXPERTS, "shared_expert_intermediate_size": 72, "decoder_sparse_step": 2},
    ),
    "qwen3_moe": ("qwen3_moe", {**WIDE, **EXPERTS, "mlp_only_layers": [1, 3]}),
    "gpt_oss": ("gpt_oss", {**WIDE, **LOCAL, "sliding_window": 64}),
    "olmoe": ("olmoe", {**GQA, "num_experts": 7, "num_experts_per_tok": 3}),
    "granitemoe": ("granitemoe", {**GQA, **LOCAL}),
    "granitemoeshared": ("granitemoeshared", {**GQA, **LOCAL, "shared_intermediate_size": 72}),
    "phimoe": ("phimoe", {**GQA, **LOCAL, "lm_head_bias": True, "attention_bias": True}),
    "minimax_m2": ("minimax_m2", {**WIDE, **LOCAL}),
    "llama4_text": (
        "llama4_text",
        {**WIDE, "num_local_experts": 7, "num_experts_per_tok": 1, "intermediate_size_mlp": 130,
         "interleave_moe_layer_step": 2, "attention_chunk_size": 64},
    ),
    "qwen3_next": (
        "qwen3_next", {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 72}
    ),
    "qwen3_5_text": ("qwen3_5_text", DELTA),
    "qwen3_5_moe_text": (
        "qwen3_5_moe_text", {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 72}
    ),
    "minimax": ("minimax", {**WIDE, **LOCAL}),
    "jamba": (
        "jamba",
        {**GQA, "num_experts": 7, "num_experts_per_tok": 3, "attn_layer_period": 4,
         "attn_layer_offset": 2, "mamba_d_state": 12, "mamba_dt_rank": 5},
    ),
    "bamba": ("bamba", {**GQA, **MAMBA2, "attn_layer_indices": [1, 3]}),
    "falcon_h1": ("falcon_h1", {**GQA, **MAMBA2, "mamba_d_ssm": 192}),
    "granitemoehybrid": (
        "granitemoehybrid",
        {**GQA, **LOCAL, **MAMBA2, "shared_intermediate_size": 72,
         "layer_types": ["mamba", "mamba", "attention", "mamba", "attention"]},
    ),
    "granitemoehybrid dense": (
        "granitemoehybrid",
        {**GQA, **MAMBA2, "num_local_experts": 0, "shared_intermediate_size": 72,
         "layer_types": ["mamba", "mamba", "attention", "mamba", "attention"]},
    ),
    "nemotron_h": (
        "nemotron_h",
        {"vocab_size": 331, "hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 6,
         "num_key_value_heads": 2, "head_dim": 24, "mamba_num_heads": 12, "mamba_head_dim": 16,
         "ssm_state_size": 20, "n_groups": 2, "conv_kernel": 4, "n_routed_experts": 8,
         "num_experts_per_tok": 3, "moe_intermediate_size": 56,
         "moe_shared_expert_intermediate_size": 72,
         "layers_block_type": ["mamba", "moe", "attention", "mlp", "mamba"]},
    ),
}  # fmt: skip
