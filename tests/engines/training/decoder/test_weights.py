"""What a checkpoint may hold beside what config.json says, and what it may not."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from foundry.engines.training.decoder.layout import check_names, list_slots
from foundry.engines.training.decoder.model import Decoder, DecoderConfig
from foundry.engines.training.decoder.weights import export_model, load_model
from foundry.engines.training.files import write_json, write_tensors
from foundry.errors import InvalidArtifact
from tests.engines.training.decoder import variants


def _write(label: str, model_dir: Path, **more: Tensor) -> dict[str, Tensor]:
    """A random checkpoint with some tensors more. Returns those without."""
    document = variants.random_document(label, 0) | {"tie_word_embeddings": True}
    write_json(model_dir / "config.json", document)
    config = DecoderConfig.of(document)
    shapes = {name: p.shape for name, p in Decoder(config).named_parameters()}
    tensors = {}
    for name, slot in list_slots(config).items():
        shape = shapes[slot.parameter]
        tensors[name] = torch.randn(shape if slot.expert is None else shape[1:])
    write_tensors(model_dir / "model.safetensors", tensors | more)
    return tensors


@pytest.mark.parametrize(
    ("label", "name"),
    [
        # What Qwen 2 has and Llama has not.
        ("smollm2", "model.layers.0.self_attn.q_proj.bias"),
        ("qwen2.5", "model.layers.0.self_attn.q_norm.weight"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.99.w1.weight"),
        ("qwen3-moe", "model.layers.0.mlp.experts.gate_up_proj"),
        ("phi3", "model.layers.0.self_attn.q_proj.weight"),
        ("gemma3", "vision_tower.embeddings.weight"),
    ],
)
def test_a_tensor_that_is_not_understood_is_refused_by_name(
    label: str, name: str, tmp_path: Path
) -> None:
    _write(label, tmp_path, **{name: torch.zeros(3)})
    with pytest.raises(InvalidArtifact) as raised:
        load_model(tmp_path)
    assert f"the weights hold {name}, which" in raised.value.message


def test_known_leftovers_are_passed_over(tmp_path: Path) -> None:
    tensors = _write(
        "smollm2", tmp_path, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    )
    head = tensors["model.embed_tokens.weight"]
    write_tensors(tmp_path / "model.safetensors", tensors | {"lm_head.weight": head.clone()})
    model = load_model(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    check_names(model.config, tensors.keys() | {"lm_head.weight"})


def test_a_head_that_config_json_denies_is_refused(tmp_path: Path) -> None:
    tensors = _write("smollm2", tmp_path)
    other = tensors["model.embed_tokens.weight"] + 1
    write_tensors(tmp_path / "model.safetensors", tensors | {"lm_head.weight": other})
    with pytest.raises(InvalidArtifact, match="set tie_word_embeddings to false"):
        load_model(tmp_path)


@pytest.mark.parametrize("label", ["mixtral", "qwen3-moe"])
def test_one_expert_that_is_missing_is_named(label: str, tmp_path: Path) -> None:
    tensors = _write(label, tmp_path)
    name = next(name for name in tensors if ".experts.2." in name)
    del tensors[name]
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(InvalidArtifact, match=f"weights lack {name}"):
        load_model(tmp_path)


@pytest.mark.parametrize("label", ["mixtral", "phi3", "gemma2"])
def test_export_writes_the_layout_that_was_read(label: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    tensors = _write(label, source)
    export_model(load_model(source), source, target, torch.float32)
    exported = load_file(target / "model.safetensors")
    assert exported.keys() == tensors.keys()
    assert all(torch.equal(exported[name], value) for name, value in tensors.items())


def test_export_carries_whatever_makes_tokens_of_a_conversation(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    _write("mixtral", source)
    carried = {
        "tokenizer.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "chat_template.json",
        "preprocessor_config.json",
        "tokenizer.model",
    }
    for name in (*carried, "README.md"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(name)
    export_model(load_model(source), source, target, torch.float32)
    exported = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert exported == carried | {"config.json", "model.safetensors"}
    assert all((target / name).read_text() == name for name in carried)


def test_a_small_file_does_not_make_us_list_millions_of_tensors() -> None:
    document = variants.random_document("mixtral", 0)
    document |= {"num_hidden_layers": 1024, "num_local_experts": 1024}
    with pytest.raises(InvalidArtifact, match="weights lack"):
        check_names(DecoderConfig.of(document), {"model.norm.weight"})
