"""Published models by their published numbers, and what is refused."""

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.engines.budsim.model_config import flops_per_token, model_spec, model_spec_of
from foundry.engines.budsim.model_config.families import FAMILIES
from foundry.engines.budsim.model_config.fields import ALIASES
from foundry.errors import FoundryError, InvalidArtifact, InvalidRequest, UnsupportedFeature
from tests.engines.budsim.small_models import CASES

LLAMA_3_8B: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
    "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 8192,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 128256,
}  # fmt: skip
MIXTRAL_8X7B: dict[str, object] = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip
DEEPSEEK_V3: dict[str, object] = {
    "model_type": "deepseek_v3", "attention_bias": False, "first_k_dense_replace": 3,
    "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
}  # fmt: skip
GPT_OSS_120B: dict[str, object] = {
    "model_type": "gpt_oss", "attention_bias": True, "head_dim": 64, "hidden_size": 2880,
    "intermediate_size": 2880, "max_position_embeddings": 131072, "num_attention_heads": 64,
    "num_experts_per_tok": 4, "num_hidden_layers": 36, "num_key_value_heads": 8,
    "num_local_experts": 128, "sliding_window": 128, "tie_word_embeddings": False,
    "vocab_size": 201088, "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip
GEMMA_3_4B: dict[str, object] = {
    "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
        "num_hidden_layers": 34, "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
}  # fmt: skip
QWEN2_72B: dict[str, object] = {
    "model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29568,
    "max_position_embeddings": 32768, "max_window_layers": 80, "num_attention_heads": 64,
    "num_hidden_layers": 80, "num_key_value_heads": 8, "sliding_window": 131072,
    "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip


def published(
    model_type: str,
    shape: tuple[int, int, int, int, int, int],
    **others: object,
) -> dict[str, object]:
    """`shape`: layers, hidden, heads, key heads, feed-forward width, vocabulary."""
    keys = (
        "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "vocab_size",
    )  # fmt: skip
    return {"model_type": model_type, **dict(zip(keys, shape, strict=True)), **others}


KIMI_K2 = {
    **DEEPSEEK_V3, "model_type": "kimi_k2", "num_attention_heads": 64, "n_routed_experts": 384,
    "first_k_dense_replace": 1, "vocab_size": 163840,
}  # fmt: skip
QWEN3_MOE = {"head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8}
# name: (configuration, parameters that the publisher's files hold)
PUBLISHED: dict[str, tuple[dict[str, object], int]] = {
    "Llama-2-7B": (published("llama", (32, 4096, 32, 32, 11008, 32000)), 6_738_415_616),
    "Llama-3-70B": (published("llama", (80, 8192, 64, 8, 28672, 128256)), 70_553_706_496),
    "Qwen3-32B": (
        published("qwen3", (64, 5120, 64, 8, 25600, 151936), head_dim=128), 32_762_123_264,
    ),
    "Qwen3-30B-A3B": (
        published("qwen3_moe", (48, 2048, 32, 4, 6144, 151936), moe_intermediate_size=768,
                  **QWEN3_MOE),
        30_532_122_624,
    ),
    "Qwen3-235B-A22B": (
        published("qwen3_moe", (94, 4096, 64, 4, 12288, 151936), moe_intermediate_size=1536,
                  **QWEN3_MOE),
        235_093_634_560,
    ),
    "Gemma-2-27B": (
        published("gemma2", (46, 4608, 32, 16, 36864, 256000), head_dim=128), 27_227_128_320,
    ),
    "Phi-3-mini": (published("phi3", (32, 3072, 32, 32, 8192, 32064)), 3_821_079_552),
    "SmolLM2-135M": (
        published("llama", (30, 576, 9, 3, 1536, 49152), tie_word_embeddings=True), 134_515_008,
    ),
    # Less one routing correction per expert: the files hold them, but they are buffers.
    "Kimi-K2": (KIMI_K2, 1_026_408_232_448 - 60 * 384),
    "Falcon-7B": (
        {"model_type": "falcon", "n_layer": 32, "n_head": 71, "hidden_size": 4544,
         "vocab_size": 65024, "multi_query": True, "parallel_attn": True, "bias": False},
        6_921_720_704,
    ),
    "BLOOM-7B1": (
        {"model_type": "bloom", "n_layer": 30, "n_head": 32, "hidden_size": 4096,
         "vocab_size": 250880},
        7_069_016_064,
    ),
    "OPT-6.7B": (
        {"model_type": "opt", "num_hidden_layers": 32, "num_attention_heads": 32,
         "hidden_size": 4096, "ffn_dim": 16384, "max_position_embeddings": 2048,
         "vocab_size": 50272, "word_embed_proj_dim": 4096},
        6_658_473_984,
    ),
    "GPT-J-6B": (
        {"model_type": "gptj", "n_layer": 28, "n_head": 16, "n_embd": 4096, "n_positions": 2048,
         "vocab_size": 50400, "tie_word_embeddings": False},
        6_050_882_784,
    ),
    "GPT-NeoX-20B": (
        {"model_type": "gpt_neox", "num_hidden_layers": 44, "num_attention_heads": 64,
         "hidden_size": 6144, "intermediate_size": 24576, "vocab_size": 50432,
         "tie_word_embeddings": False},
        20_554_567_680,
    ),
    "MPT-7B": (
        {"model_type": "mpt", "n_layers": 32, "n_heads": 32, "d_model": 4096, "max_seq_len": 2048,
         "expansion_ratio": 4, "vocab_size": 50432},
        6_649_286_656,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    config, parameters = PUBLISHED[name]
    spec = model_spec(config)
    assert spec.parameters == parameters
    assert spec.exact


def test_llama_3_8b() -> None:
    spec = model_spec(LLAMA_3_8B)
    assert spec.parameters == spec.active_parameters == 8_030_261_248
    assert spec.kv_bytes_per_token(2.0) == 131_072
    assert spec.kv_bytes(1000, 1.0) == 65_536_000
    assert spec.lookup_parameters == 128256 * 4096
    assert (spec.head_dim, spec.full_layers, spec.window) == (128, 32, 0)
    assert (spec.max_length, spec.weight_format, spec.exact) == (8192, "bf16", True)


def test_mixtral_8x7b() -> None:
    spec = model_spec(MIXTRAL_8X7B)
    assert spec.parameters == 46_702_792_704
    assert spec.active_parameters == 12_879_925_248
    assert spec.expert_parameters == 32 * 8 * 3 * 4096 * 14336


def test_deepseek_v3() -> None:
    spec = model_spec(DEEPSEEK_V3)
    assert spec.parameters == 671_026_404_352
    assert round(spec.active_parameters / 1e9, 1) == 37.6
    assert (spec.kv_width, spec.latent, spec.kv_heads) == (576, True, 1)
    assert spec.kv_bytes_per_token(2.0) == 576 * 61 * 2
    assert (spec.weight_format, spec.max_length) == ("fp8", 163840)


def test_gpt_oss_120b() -> None:
    """Its card leaves the input embedding out of the 5.1 · 10⁹ active parameters."""
    spec = model_spec(GPT_OSS_120B)
    assert spec.parameters == 116_829_156_672
    assert round((spec.active_parameters - spec.lookup_parameters) / 1e9, 2) == 5.13
    assert (spec.full_layers, spec.sliding_layers, spec.window) == (18, 18, 128)
    assert spec.weight_format == "fp4"
    assert spec.kv_bytes(1000, 2.0) == 18 * 1024 * 2 * (1000 + 128)


def test_qwen2_72b_has_no_window() -> None:
    spec = model_spec(QWEN2_72B)
    assert spec.parameters == 72_706_203_648
    assert (spec.full_layers, spec.sliding_layers) == (80, 0)


def test_gemma_3_4b_is_read_from_its_text_part() -> None:
    spec = model_spec(GEMMA_3_4B)
    assert spec.parameters == 3_880_263_168
    assert (spec.full_layers, spec.sliding_layers, spec.window) == (5, 29, 1024)
    assert not spec.exact


def test_mistral_v01_slides_everywhere() -> None:
    spec = model_spec(
        {**LLAMA_3_8B, "model_type": "mistral", "vocab_size": 32000, "sliding_window": 4096}
    )
    assert spec.parameters == 7_241_732_096
    assert spec.kv_bytes(8192, 2.0) == spec.kv_bytes(4096, 2.0) == 4096 * 131_072


def test_flops_of_one_token() -> None:
    spec = model_spec(LLAMA_3_8B)
    multiplied = 8_030_261_248 - 128256 * 4096
    assert flops_per_token(spec, 0) == 2 * multiplied
    assert flops_per_token(spec, 100) - flops_per_token(spec, 0) == 4 * 32 * 4096 * 100
    windowed = model_spec(GPT_OSS_120B)
    growth = flops_per_token(windowed, 1000) - flops_per_token(windowed, 0)
    assert growth == 4 * 18 * 64 * 64 * (1000 + 128)


def compressed(kind: str, bits: int) -> dict[str, object]:
    weights = {"type": kind, "num_bits": bits}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": weights}},
    }


QUANTIZATIONS: list[tuple[dict[str, object], str]] = [
    ({"quant_method": "gptq", "bits": 4}, "int4"),
    ({"quant_method": "gptq", "bits": 8}, "int8"),
    ({"quant_method": "awq", "bits": 4}, "int4"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
    ({"quant_method": "fbgemm_fp8"}, "fp8"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
    (compressed("float", 8), "fp8"),
    (compressed("float", 4), "fp4"),
    (compressed("int", 8), "int8"),
    (compressed("int", 4), "int4"),
]


@pytest.mark.parametrize(("section", "expected"), QUANTIZATIONS)
def test_quantised_checkpoints(section: dict[str, object], expected: str) -> None:
    spec = model_spec({**LLAMA_3_8B, "quantization_config": section})
    assert spec.weight_format == expected
    assert spec.parameters == 8_030_261_248


def test_unknown_types_are_read_like_llama_and_marked() -> None:
    spec = model_spec({**LLAMA_3_8B, "model_type": "somebody_elses"})
    assert spec.parameters == 8_030_261_248
    assert not spec.exact


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"hidden_size": None}, "`hidden_size`; budsim reads it from hidden_size or n_embd"),
    ({"hidden_size": 0}, "`hidden_size` is '0'; it must be an integer from 1"),
    ({"hidden_size": -4096}, "`hidden_size`"),
    ({"hidden_size": "4096"}, "`hidden_size`"),
    ({"hidden_size": True}, "`hidden_size`"),
    ({"hidden_size": math.nan}, "`hidden_size`"),
    ({"hidden_size": 10**30}, "`hidden_size`"),
    ({"num_hidden_layers": 10**6}, "`num_hidden_layers`"),
    ({"num_key_value_heads": 7}, "must divide"),
    ({"tie_word_embeddings": "no"}, "`tie_word_embeddings` is 'no'; it must be true or false"),
    ({"torch_dtype": "int3"}, "accepted: bfloat16"),
    ({"layer_types": ["full_attention"]}, "has 1 entries for 32 layers"),
    ({"layer_types": ["dreaming"] * 32}, "'dreaming' is unknown; accepted: full_attention"),
    ({"layer_types": ["linear_attention"] * 32}, "does not know the recurrent layers"),
    ({"quantization_config": {"quant_method": "magic"}}, "accepted: fp8"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 400}}, "from 2 to 8"),
    ({"quantization_config": {"quant_method": "compressed-tensors"}}, "names no weights"),
    ({"num_local_experts": 4, "num_experts_per_tok": 5}, "cannot visit 5 of 4"),
    ({"rope_scaling": {"type": "yarn", "factor": math.inf,
                       "original_max_position_embeddings": 4096}}, "rope_scaling.factor"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_absurd_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        model_spec({**LLAMA_3_8B, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"is_encoder_decoder": True},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
    ],
)
def test_models_that_are_no_decoders_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UnsupportedFeature):
        model_spec({**LLAMA_3_8B, **change})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**12) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


LISTS = (
    "layer_types", "layers_block_type", "mlp_layer_types", "moe_layers", "mlp_only_layers",
    "attn_layer_indices", "attn_type_list", "architectures", "rope_parameters", "attn_config",
    "hybrid_override_pattern", "sliding_window_pattern", "text_config", "quantization_config",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(base=st.sampled_from([LLAMA_3_8B, DEEPSEEK_V3, GPT_OSS_120B, GEMMA_3_4B]), data=st.data())
def test_any_damage_gives_a_spec_or_an_error_of_ours(
    base: Mapping[str, object], data: st.DataObject
) -> None:
    keys = [*base, *LISTS, *(key for keys in ALIASES.values() for key in keys)]
    key = data.draw(st.sampled_from(keys))
    try:
        spec = model_spec({**base, key: data.draw(json_values)})
    except FoundryError as error:
        assert error.code in ("invalid_value", "unsupported")
    else:
        assert 0 < spec.active_parameters <= spec.parameters < 1e24


def write_config(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(LLAMA_3_8B))


def test_directory_with_an_index(tmp_path: Path) -> None:
    write_config(tmp_path)
    index = {"metadata": {"total_size": 16_060_522_496}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert model_spec_of(tmp_path).checkpoint_bytes == 16_060_522_496


def test_directory_with_one_file(tmp_path: Path) -> None:
    write_config(tmp_path)
    assert model_spec_of(tmp_path).checkpoint_bytes is None
    header = json.dumps({"a": {"dtype": "BF16", "shape": [7, 3], "data_offsets": [0, 42]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(42)
    (tmp_path / "model.safetensors").write_bytes(data)
    assert model_spec_of(tmp_path).checkpoint_bytes == 42


def test_damaged_directories(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is this a model directory"):
        model_spec_of(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidRequest, match="is not valid JSON"):
        model_spec_of(tmp_path)
    write_config(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(InvalidArtifact, match="shorter than its header says"):
        model_spec_of(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": "big"}}')
    with pytest.raises(InvalidArtifact, match="total_size"):
        model_spec_of(tmp_path)


def test_every_family_is_checked_against_a_module() -> None:
    """Directly, or because it shares its description with one that is."""
    checked = {kind for kind, _ in CASES.values()}
    descriptions = [FAMILIES[kind] for kind in checked]
    assert len(checked) >= 50
    assert all(FAMILIES[kind] in descriptions for kind in FAMILIES)
