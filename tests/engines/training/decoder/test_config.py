"""Which models the trainer reads, told from their config.json alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from foundry.engines.training.decoder.config import DecoderConfig
from foundry.errors import InvalidArtifact, UnsupportedFeature
from tests.catalog.registry.files import LLAMA

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
    assert (config.head_dim, config.num_key_value_heads, config.rope_theta) == (2, 2, 10_000.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, "training Qwen2ForCausalLM is not supported"),
        ({"architectures": None, "model_type": "gpt2"}, "training gpt2 is not supported"),
        ({"architectures": "LlamaForCausalLM"}, "training LlamaForCausalLM is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "a quantised checkpoint"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported: only False is"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "'linear' rotary scaling"),
        ({"rope_scaling": "linear"}, "'linear' rotary scaling"),
    ],
)
def test_what_the_decoder_lacks_is_named(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UnsupportedFeature, match=says):
        DecoderConfig.of(WHOLE | changes)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({**WHOLE, "num_attention_heads": 0}, "values that no Llama has"),
        ({**WHOLE, "rope_theta": "far"}, "values that no Llama has"),
        ({name: value for name, value in WHOLE.items() if name != "vocab_size"}, "'vocab_size'"),
        ([], "is not an object"),
    ],
)
def test_a_broken_configuration_is_no_model(document: object, says: str) -> None:
    with pytest.raises(InvalidArtifact, match=says):
        DecoderConfig.of(document)


def test_no_fragment_of_what_is_trained_is_empty() -> None:
    tied = DecoderConfig.of(WHOLE)
    untied = DecoderConfig.of(WHOLE | {"tie_word_embeddings": False})
    # Two layers; a full training adds the embedding, the norm and a head of its own.
    assert tied.most_fragments(lora=True) == untied.most_fragments(lora=True) == 2
    assert (tied.most_fragments(lora=False), untied.most_fragments(lora=False)) == (4, 5)
