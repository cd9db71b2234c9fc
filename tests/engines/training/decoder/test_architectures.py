"""Every family against transformers and PEFT, on tiny random models.

`make bench NAME=architectures` compares many more configurations of each.
"""

from pathlib import Path

import pytest
import torch

from foundry.engines.training.config import Lora, TargetGroup
from foundry.engines.training.decoder.layout import list_slots
from foundry.engines.training.decoder.weights import export_model, load_model
from tests.engines.training.decoder import reference, variants

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
MOST_LOGITS, MOST_GRADIENTS = 1e-5, 1e-4


def _check(found: reference.Differences) -> None:
    assert found.logits <= MOST_LOGITS
    assert found.gradients <= MOST_GRADIENTS
    assert found.packed <= MOST_LOGITS


@pytest.mark.parametrize("label", variants.FAMILIES)
def test_full_and_adapted_models_are_the_same_function(label: str, tmp_path: Path) -> None:
    theirs = reference.write_reference(variants.random_document(label, 0), tmp_path)
    model = load_model(tmp_path)
    _check(reference.compare(model, theirs))
    slots = list_slots(model.config)
    assert {slot.parameter for slot in slots.values()} == dict(model.named_parameters()).keys()
    targets: tuple[TargetGroup, ...] = ("attn",) if model.config.experts else ("attn", "mlp")
    method = Lora(rank=3, alpha=7, targets=targets)
    _check(reference.compare(model, reference.adapt(model, theirs, tmp_path, method)))


@pytest.mark.parametrize("label", variants.FAMILIES)
def test_another_variant_is_the_same_function(label: str, tmp_path: Path) -> None:
    theirs = reference.write_reference(variants.random_document(label, 1), tmp_path)
    _check(reference.compare(load_model(tmp_path), theirs))


@pytest.mark.parametrize("label", variants.FAMILIES)
@torch.no_grad()
def test_transformers_loads_what_is_exported(label: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source, target = tmp_path / "source", tmp_path / "target"
    theirs = reference.write_reference(variants.random_document(label, 2), source)
    model = load_model(source)
    model.get_parameter("model.layers.0.self_attn.o_proj.weight").mul_(-1)
    target.mkdir()
    export_model(model, source, target, torch.float32)
    again = AutoModelForCausalLM.from_pretrained(
        target, dtype=torch.float32, attn_implementation="eager"
    )
    tokens, positions = reference.random_stream(model.config.vocab_size, (19,))
    ours = model.logits(model(tokens, positions, (19,)))
    assert (again(tokens[None]).logits[0] - ours).abs().max() <= MOST_LOGITS
    assert (theirs(tokens[None]).logits[0] - ours).abs().max() > 100 * MOST_LOGITS


@pytest.mark.parametrize("label", variants.FAMILIES)
@torch.no_grad()
def test_a_segment_is_bit_for_bit_the_same_whatever_its_neighbours_hold(
    label: str, tmp_path: Path
) -> None:
    reference.write_reference(variants.random_document(label, 0), tmp_path)
    model = load_model(tmp_path)
    tokens, positions = reference.random_stream(model.config.vocab_size)
    before = model(tokens, positions, reference.SEGMENTS)
    changed = tokens.clone()
    changed[5:28] = (changed[5:28] + 1) % model.config.vocab_size
    after = model(changed, positions, reference.SEGMENTS)
    others = torch.cat([before[:5] - after[:5], before[28:] - after[28:]]).abs().max().item()
    # How many tokens share an expert decides how its sums are rounded.
    assert others <= (0.0 if model.config.experts is None else 1e-6)
    assert not torch.equal(before[5:28], after[5:28])
