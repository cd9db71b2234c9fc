"""Models against the accelerators that are to hold them; values by hand."""

from dataclasses import replace

import pytest

from foundry.config import ServingSettings
from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.model_config import model_spec
from foundry.serving.engine.hardware import Hardware, Node
from foundry.serving.engine.options import EngineOptions
from foundry.serving.engine.runtime import VllmRules
from foundry.serving.engine.shape import (
    ModelShape,
    find_head_faults,
    limit_context,
    weight_bytes,
)
from tests.serving.recommendations.questions import LLAMA

# 8,030,261,248 parameters; KV cache of 32 layers x 2 x 8 heads x 128 = 65,536 values a token.
SPEC = model_spec(LLAMA)
LLAMA_8B = ModelShape(8192, SPEC)
# SmolLM2-135M: 30 layers x 2 x 3 heads x 64 = 11,520 values a token.
SMOL = ModelShape(
    8192,
    model_spec(
        LLAMA
        | {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        }
    ),
)
T4S = Hardware(
    (Node(16, 64, 4),), (), {"nvidia-t4-16gb": "T4"}, accelerator_memory={"nvidia-t4-16gb": 16.0}
)
BOTH = replace(
    T4S,
    accelerators={"nvidia-t4-16gb": "T4", "nvidia-a100-80gb": "A100"},
    accelerator_memory={"nvidia-t4-16gb": 16.0, "nvidia-a100-80gb": 80.0},
)
LAPTOP = Hardware((Node(2, 8),), (Node(2, 8),), host_gb=8.0)
RULES = VllmRules(ServingSettings(max_model_len=8192))


def heads(query: int, key_value: int, **values: object) -> ModelSpec:
    return replace(SPEC, heads=query, kv_heads=key_value, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "tensor", "choices"),
    [
        (heads(32, 8), 1, None),
        (heads(32, 8), 8, None),
        # More ranks than key-value heads: each is kept on several.
        (heads(32, 8), 16, None),
        (heads(32, 8), 3, "1, 2, 4, 8, 16, 32"),
        # Qwen2-0.5B.
        (heads(14, 2), 2, None),
        (heads(14, 2), 14, None),
        (heads(14, 2), 7, "1, 2, 14"),
        (heads(14, 2), 4, "1, 2, 14"),
        # 9 heads, 3 of keys and values: SmolLM2.
        (heads(9, 3), 3, None),
        (heads(9, 3), 9, None),
        (heads(9, 3), 2, "1, 3, 9"),
        # 6 key-value heads cannot be cut into 4, nor 4 ranks share them evenly.
        (heads(12, 6), 4, "1, 2, 3, 6, 12"),
        # Latent attention keeps its cache whole on every rank.
        (heads(16, 3, latent=True), 2, None),
    ],
)
def test_tensor_parallel_ranks_divide_the_heads(
    spec: ModelSpec, tensor: int, choices: str | None
) -> None:
    found = find_head_faults(EngineOptions(tensor_parallel_size=tensor), spec)
    if choices is None:
        assert found == []
        return
    assert found == [
        f"tensor_parallel_size {tensor} does not divide the model's {spec.heads} attention heads "
        f"with {spec.kv_heads} key-value heads: configure one of {choices}"
    ]


def test_a_stage_of_a_pipeline_has_a_layer() -> None:
    assert find_head_faults(EngineOptions(pipeline_parallel_size=32), SPEC) == []
    (said,) = find_head_faults(EngineOptions(pipeline_parallel_size=33), SPEC)
    assert said.startswith("pipeline_parallel_size 33 is more than the model's 32 layers")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        # 8.030e9 x 2 bytes and 8,192 x 131,072 bytes; 0.92 x 16 GB.
        ({}, "16.06 GB of weights and 1.07 GB of KV cache for one sequence of 8192 tokens, on "
             "each of 1 accelerators, are more than the 14.72 of 16 GB"),
        ({"tensor_parallel_size": 2}, None),
        ({"pipeline_parallel_size": 2}, None),
        ({"quantization": "fp8"}, None),
        ({"quantization": "fp8", "gpu_memory_utilization": 0.5}, "8.03 GB of weights .* 8.00 of"),
        # float32 weights and cache.
        ({"tensor_parallel_size": 2, "dtype": "float32"}, "16.06 GB .* 1.07 GB .* each of 2"),
        ({"tensor_parallel_size": 4, "dtype": "float32"}, None),
    ],
)  # fmt: skip
def test_weights_and_one_sequence_fit_an_accelerator(
    config: dict[str, object], says: str | None
) -> None:
    report = RULES.supports(config, T4S, model=LLAMA_8B)
    assert report.reasons == ()
    if says is None:
        assert report.missing == ()
    else:
        (missing,) = report.missing
        assert missing.startswith("the model does not fit: ")
        pattern = pytest.raises(AssertionError, match=says)
        with pattern:
            raise AssertionError(missing)


def test_what_is_not_known_refuses_nothing() -> None:
    assert RULES.supports({}, T4S, model=ModelShape(8192)).ok
    assert RULES.supports({}, T4S).ok
    assert RULES.supports({}, None, model=LLAMA_8B).ok
    # One kind in the cluster is unknown, or the asked one.
    assert RULES.supports({}, replace(T4S, unknown_accelerators=True), model=LLAMA_8B).ok
    nameless = replace(T4S, accelerator_memory={})
    assert RULES.supports({}, nameless, model=LLAMA_8B).ok
    assert RULES.supports({}, replace(LAPTOP, host_gb=None), model=SMOL).ok


def test_the_largest_accelerator_counts_unless_one_is_named() -> None:
    assert RULES.supports({}, BOTH, model=LLAMA_8B).ok
    report = RULES.supports({"resources": {"gpu_type": "nvidia-t4-16gb"}}, BOTH, model=LLAMA_8B)
    assert "14.72 of 16 GB" in report.missing[0]


def test_a_cpu_holds_weights_and_its_cache() -> None:
    assert RULES.supports({}, LAPTOP, model=SMOL).ok
    # 8.030e9 x 4 bytes, 0.5 GiB.
    report = RULES.supports({"max_model_len": 512}, LAPTOP, model=LLAMA_8B)
    assert report.missing == (
        "the model does not fit: 32.12 GB of weights and 0.54 GB of KV cache are more than the "
        "8.00 GB of the largest node: lower FOUNDRY_SERVING__KV_CACHE_GB, serve a smaller model "
        "or add nodes",
    )
    # 65,536 values x 4 bytes: 2,048 tokens fill the 0.5 GiB of cache.
    assert RULES.supports({"max_model_len": 2048}, LAPTOP, model=LLAMA_8B).reasons == ()
    report = RULES.supports({"max_model_len": 4096}, LAPTOP, model=LLAMA_8B)
    assert report.reasons == (
        "one sequence of max_model_len 4096 needs 1.07 GB of KV cache, and engines on CPUs have "
        "0.54 GB: configure max_model_len 2048 or less, or raise FOUNDRY_SERVING__KV_CACHE_GB",
    )


def test_a_context_that_nobody_asked_for_ends_at_the_models() -> None:
    settings = ServingSettings(max_model_len=2048)
    assert limit_context(settings, ModelShape(512)).max_model_len == 512
    assert limit_context(settings, ModelShape(4096)) == settings
    assert limit_context(settings, ModelShape()) == settings
    # So it is not refused, and its cache is that of 512 tokens.
    short = replace(LLAMA_8B, context_length=512)
    assert VllmRules(settings).supports({}, LAPTOP, model=short).reasons == ()


@pytest.mark.parametrize(
    ("spec", "options", "dtype", "on_cpu", "expected"),
    [
        (SPEC, EngineOptions(), "auto", False, 8_030_261_248 * 2),
        (SPEC, EngineOptions(), "auto", True, 8_030_261_248 * 4),
        (SPEC, EngineOptions(), "bfloat16", True, 8_030_261_248 * 2),
        (SPEC, EngineOptions(quantization="fp8"), "auto", False, 8_030_261_248),
        # A checkpoint that is quantised already stays as it is.
        (replace(SPEC, weight_format="int4"), EngineOptions(), "auto", False, 8_030_261_248 * 0.56),
        (
            replace(SPEC, weight_format="int4", checkpoint_bytes=5 * 10**9),
            EngineOptions(), "auto", False, 5 * 10**9,
        ),
    ],
)  # fmt: skip
def test_weights_have_the_size_that_the_engine_loads(
    spec: ModelSpec, options: EngineOptions, dtype: str, on_cpu: bool, expected: float
) -> None:
    assert weight_bytes(spec, options, dtype, on_cpu=on_cpu) == pytest.approx(expected)
