import json
from pathlib import Path

import pytest
import torch

from foundry.engines.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from foundry.engines.training.config import Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.learner import Learner
from foundry.engines.training.packing import Batch
from foundry.errors import FoundryError, InvalidArtifact, UnsupportedFeature

CONFIG = Lora(rank=4, alpha=12)


def _adapted(tiny_model: Path, config: Lora = CONFIG) -> Decoder:
    """A model whose adapter does something: B starts at zero."""
    model = load_model(tiny_model)
    lora.attach(model, config, seed=3)
    torch.manual_seed(1)
    with torch.no_grad():
        for name in lora.declared_names(model, config):
            if name.endswith("lora_B"):
                model.get_parameter(name).normal_(std=0.1)
    return model


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
# It warns of merging, which would change the embedding as well.
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
@torch.no_grad()
def test_peft_loads_the_adapter_and_gives_the_same_logits(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    everything = CONFIG.model_copy(update={"targets": ("attn", "mlp", "unembed")})
    model = _adapted(tiny_model, everything)
    lora.export_adapter(model, everything, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokens = torch.randint(0, 259, (20,), generator=torch.Generator().manual_seed(0))
    plain = base(tokens[None]).logits[0]
    theirs = PeftModel.from_pretrained(base, tmp_path)(tokens[None]).logits[0]
    ours = model.lm_head(model(tokens, torch.arange(20), (20,)))
    assert (ours - theirs).abs().max() <= 1e-5
    assert (theirs - plain).abs().max() > 0.05


def test_a_learner_sees_the_adapter_of_the_head(tiny_model: Path) -> None:
    model = _adapted(tiny_model, Lora(rank=2, targets=("unembed",)))
    tokens = torch.arange(3, 12)
    batch = Batch(tokens, torch.arange(9), (9,), torch.arange(8), tokens[1:])
    learner = Learner(
        model,
        lora.trainable(model, {"lm_head.lora_A", "lm_head.lora_B"}),
        lr=1e-2,
        weight_decay=0.0,
        grad_clip=0.0,
    )
    (found,) = learner.forward([batch]).log_probs
    with torch.no_grad():
        logits = model.lm_head(model(tokens, torch.arange(9), (9,)))
    expected = logits[:-1].log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)
    torch.testing.assert_close(found, expected)
    before = learner.step([batch], 1e-2).loss
    assert learner.step([batch], 1e-2).loss < before


@torch.no_grad()
def test_a_new_adapter_changes_nothing_and_follows_the_seed(tiny_model: Path) -> None:
    plain, tokens = load_model(tiny_model), torch.arange(3, 12)
    expected = plain(tokens, torch.arange(9), (9,))
    models = []
    for seed in (5, 5, 6):
        model = load_model(tiny_model)
        lora.attach(model, CONFIG, seed)
        assert torch.equal(model(tokens, torch.arange(9), (9,)), expected)
        models.append(model.get_parameter("model.layers.1.mlp.up_proj.lora_A"))
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])
    # Kaiming-uniform with a = sqrt(5) is uniform on ±1/sqrt(inputs).
    bound = 32**-0.5
    assert 0.9 * bound < models[0].abs().max() <= bound


def test_import_restores_what_export_wrote(tiny_model: Path, tmp_path: Path) -> None:
    model = _adapted(tiny_model)
    lora.export_adapter(model, CONFIG, tmp_path)
    other = load_model(tiny_model)
    assert lora.import_adapter(other, tmp_path) == CONFIG
    for name in lora.declared_names(model, CONFIG):
        assert torch.equal(model.get_parameter(name), other.get_parameter(name))


def test_only_the_declared_parameters_are_trained(tiny_model: Path) -> None:
    config = Lora(rank=2, targets=("attn",))
    model = load_model(tiny_model)
    lora.attach(model, config, seed=0)
    declared = lora.declared_names(model, config)
    assert len(declared) == 2 * 4 * 2
    assert set(lora.trainable(model, declared)) == declared
    model.model.norm.weight.requires_grad_(True)
    with pytest.raises(FoundryError, match=r"model\.norm\.weight"):
        lora.trainable(model, declared)


def test_broken_and_foreign_adapters_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    lora.export_adapter(_adapted(tiny_model), CONFIG, tmp_path)
    document = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps({**document, "use_dora": True}))
    with pytest.raises(UnsupportedFeature, match="use_dora"):
        lora.import_adapter(load_model(tiny_model), tmp_path)
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps({**document, "r": 8}))
    with pytest.raises(InvalidArtifact, match="shape"):
        lora.import_adapter(load_model(tiny_model), tmp_path)
    (tmp_path / ADAPTER_CONFIG).write_text(json.dumps(document))
    (tmp_path / ADAPTER_WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(InvalidArtifact, match="cannot be read"):
        lora.import_adapter(load_model(tiny_model), tmp_path)
