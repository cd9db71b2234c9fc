"""Which models the trainer reads, told from their config.json alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from foundry.catalog.registry.architectures import list_served_architectures
from foundry.engines.training.decoder.config import DecoderConfig, Layer, Rope
from foundry.engines.training.decoder.families.table import FAMILIES
from foundry.errors import InvalidArtifact, UnsupportedFeature
from tests.catalog.registry.files import LLAMA
from tests.engines.training.decoder import variants

WHOLE = LLAMA | {"max_position_embeddings": 512}


def test_asking_loads_no_torch() -> None:
    program = (
        "import sys, foundry.engines.training.decoder.config; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_file_and_its_document_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(WHOLE))
    config = DecoderConfig.load(tmp_path)
    assert config == DecoderConfig.of(WHOLE)
    assert (config.head_dim, config.num_key_value_heads) == (2, 2)
    assert config.layers == (Layer(Rope("default", theta=10_000.0, size=2)),) * 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "training GPT2LMHeadModel is not supported: only"),
        ({"architectures": None, "model_type": "gpt2"}, "training gpt2 is not supported"),
        ({"architectures": "LlamaForCausalLM"}, "training LlamaForCausalLM is not supported"),
        ({"architectures": [["LlamaForCausalLM"]]}, "is not supported"),
        (
            {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}},
            "Gemma3ForConditionalGeneration is not supported: it reads more than text",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "a quantised checkpoint"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not supported: only 'silu'"),
        ({"rope_scaling": {"type": "spiral"}}, "rope_scaling.rope_type='spiral' is not supported"),
        ({"rope_scaling": "linear"}, "rope_scaling='linear' is not supported: only an object"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2, "twist": 1}},
            "rope_parameters.twist=1 is not supported: this field is not understood",
        ),
        ({"rope_interleaved": True}, "rope_interleaved=True is not supported: only False"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder=True"),
        ({"alibi": True}, "LlamaForCausalLM with alibi=True is not supported: this field is not"),
        ({"use_mrope": False}, "use_mrope=False is not supported: this field is not understood"),
    ],
)
def test_what_the_decoder_lacks_is_named(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UnsupportedFeature, match=re.escape(says)):
        DecoderConfig.of(WHOLE | changes)


YARN = {"rope_type": "yarn", "factor": 2.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({**WHOLE, "num_attention_heads": 0}, "num_attention_heads=0, which is not a whole number"),
        ({**WHOLE, "num_attention_heads": True}, "num_attention_heads=True, which is not a whole"),
        ({**WHOLE, "num_attention_heads": 2.0}, "num_attention_heads=2.0, which is not a whole"),
        ({**WHOLE, "num_key_value_heads": 3}, "num_key_value_heads=3, which is not a divisor of 2"),
        ({**WHOLE, "rope_theta": "far"}, "rope_theta='far', which is not a number above 0"),
        ({**WHOLE, "rms_norm_eps": float("nan")}, "rms_norm_eps=nan, which is not a number above"),
        ({**WHOLE, "tie_word_embeddings": 1}, "tie_word_embeddings=1, which is not true or false"),
        ({**WHOLE, "hidden_act": ["silu"]}, "hidden_act=['silu'], which is not a text"),
        (
            {**WHOLE, "head_dim": 3},
            "partial_rotary_factor=1.0, which is not an even part of a head",
        ),
        ({**WHOLE, "rope_scaling": {"type": "linear"}}, "lacks 'rope_scaling.factor'"),
        (
            {**WHOLE, "rope_scaling": {"type": ["linear"]}},
            "rope_scaling.type=['linear'], which is not a text",
        ),
        (
            {**WHOLE, "rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}},
            "high_freq_factor=1.0, which is not above low_freq_factor",
        ),
        ({**WHOLE, "num_hidden_layers": 10**12}, "which is not a whole number from 1 to 1024"),
        ({**WHOLE, "vocab_size": 2**40}, "which is not a whole number from 1 to 1073741824"),
        ({**WHOLE, "rope_theta": 10**400}, "which is not a number above 0"),
        ({**WHOLE, "rope_theta": float("inf")}, "rope_theta=inf, which is not a number above 0"),
        ({**WHOLE, "rope_scaling": YARN | {"rope_theta": 1}}, "which is not a number above 1"),
        (
            {**WHOLE, "rope_scaling": YARN | {"original_max_position_embeddings": 1}},
            "original_max_position_embeddings=1, which is not a context",
        ),
        ({**WHOLE, "model_type": "qwen2"}, "model_type='qwen2', not 'llama'"),
        ({name: value for name, value in WHOLE.items() if name != "vocab_size"}, "'vocab_size'"),
        ([], "is not an object"),
    ],
)
def test_a_broken_configuration_is_no_model(document: object, says: str) -> None:
    with pytest.raises(InvalidArtifact, match=re.escape(says)):
        DecoderConfig.of(document)


def test_no_fragment_of_what_is_trained_is_empty() -> None:
    tied = DecoderConfig.of(WHOLE)
    untied = DecoderConfig.of(WHOLE | {"tie_word_embeddings": False})
    # Two layers; a full training adds the embedding, the norm and a head of its own.
    assert tied.most_fragments(("attn", "mlp")) == untied.most_fragments(("attn", "mlp")) == 2
    assert (tied.most_fragments(None), untied.most_fragments(None)) == (4, 5)
    assert untied.most_fragments(("attn", "unembed")) == 4
    assert untied.most_fragments(("unembed",)) == 2


def test_adapters_on_experts_are_refused_by_name() -> None:
    document = variants.random_document("mixtral", 0)
    config = DecoderConfig.of(document)
    config.check_adapter_targets(("attn",))
    with pytest.raises(UnsupportedFeature, match=r"experts of MixtralForCausalLM.*targets"):
        config.check_adapter_targets(("attn", "mlp"))


def test_what_can_be_trained_can_be_served() -> None:
    assert FAMILIES.keys() <= list_served_architectures()


@pytest.mark.parametrize("label", variants.FAMILIES)
def test_a_field_that_no_reader_knows_is_refused_in_every_family(label: str) -> None:
    document = variants.random_document(label, 0)
    DecoderConfig.of(document | {"use_cache": True, "torch_dtype": "bfloat16", "dtype": "float32"})
    with pytest.raises(UnsupportedFeature, match="layer_scale=2 is not supported: this field"):
        DecoderConfig.of(document | {"layer_scale": 2})


def _without(label: str, *names: str) -> dict[str, object]:
    document = variants.random_document(label, 0) | {"use_sliding_window": True}
    if not label.startswith("qwen"):
        del document["use_sliding_window"]
    return {name: value for name, value in document.items() if name not in names}


@pytest.mark.parametrize("label", ["mistral", "gemma2", "gemma3", "qwen2.5", "qwen3", "olmo3"])
def test_a_missing_window_is_that_of_the_familys_class(label: str) -> None:
    """4,096 in transformers, from which engines read a model; null is none at all."""
    document = _without(label, "sliding_window", "layer_types")
    if label.startswith("qwen"):
        document["max_window_layers"] = 0
    windows = {layer.window for layer in DecoderConfig.of(document).layers}
    assert 4096 in windows


def test_missing_soft_caps_of_gemma_2_are_those_of_its_class() -> None:
    names = ("attn_logit_softcapping", "final_logit_softcapping")
    config = DecoderConfig.of(_without("gemma2", *names))
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)
    config = DecoderConfig.of(_without("gemma2", *names) | dict.fromkeys(names))
    assert (config.attention_softcap, config.logit_softcap) == (None, None)
