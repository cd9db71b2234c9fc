"""Models that the tests share: shapes as published, counts rounded."""

from dataclasses import replace

from foundry.engines.budsim.architecture import ModelSpec

LLAMA_8B = ModelSpec(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    kv_width=2048,
    ffn=14336,
    vocabulary=128256,
    parameters=8.03e9,
    active_parameters=8.03e9,
    full_layers=32,
    lookup_parameters=0.525e9,
)
# The one dense model of the training data that small clusters run.
LLAMA_70B = replace(
    LLAMA_8B,
    layers=80,
    full_layers=80,
    hidden=8192,
    heads=64,
    ffn=28672,
    parameters=70.55e9,
    active_parameters=70.55e9,
    lookup_parameters=1.05e9,
    max_length=131072,
)
MIXTRAL = replace(
    LLAMA_8B,
    vocabulary=32000,
    parameters=46.7e9,
    active_parameters=12.9e9,
    lookup_parameters=0.13e9,
    expert_parameters=45.1e9,
    experts=8,
    experts_per_token=2,
)
DEEPSEEK = replace(
    LLAMA_8B,
    layers=61,
    full_layers=61,
    hidden=7168,
    heads=128,
    kv_heads=1,
    head_dim=192,
    kv_width=576,
    latent=True,
    parameters=671e9,
    active_parameters=37e9,
    lookup_parameters=0.93e9,
    expert_parameters=653.9e9,
    experts=256,
    experts_per_token=8,
    weight_format="fp8",
)
GPT_OSS = replace(
    LLAMA_8B,
    layers=36,
    full_layers=18,
    sliding_layers=18,
    window=128,
    hidden=2880,
    heads=64,
    head_dim=64,
    kv_width=1024,
    parameters=116.8e9,
    active_parameters=5.7e9,
    lookup_parameters=0.58e9,
    expert_parameters=114.7e9,
    experts=128,
    experts_per_token=4,
    weight_format="fp4",
)
