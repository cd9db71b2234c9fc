"""Published configurations are read whole, and as transformers reads them."""

import copy
import re
from pathlib import Path

import pytest
import torch

from foundry.engines.training.decoder.families.table import FAMILIES
from foundry.engines.training.decoder.layout import list_slots
from foundry.engines.training.decoder.model import Decoder, DecoderConfig
from tests.engines.training.decoder.published import GEMMA_3_1B, MODELS, PHI_4_MINI


@pytest.mark.parametrize("name", MODELS)
def test_the_decoder_has_as_many_parameters_as_are_published(name: str) -> None:
    document, expected = MODELS[name]
    config = DecoderConfig.of(document)
    with torch.device("meta"):
        parameters = dict(Decoder(config).named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == expected
    assert {slot.parameter for slot in list_slots(config).values()} == parameters.keys()


@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_5_writes_again_means_the_same(name: str) -> None:
    from transformers import AutoConfig

    document, _ = MODELS[name]
    settings = copy.deepcopy(document)
    rewritten = AutoConfig.for_model(settings.pop("model_type"), **settings).to_dict()
    assert "rope_parameters" in rewritten
    assert DecoderConfig.of(rewritten) == DecoderConfig.of(document)


def test_the_documentation_names_every_architecture() -> None:
    text = (Path(__file__).parents[4] / "docs" / "families.md").read_text()
    named = re.findall(r"^\|[^|]+\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert named == list(FAMILIES)


def test_layers_of_two_kinds_have_their_own_rotary_embedding() -> None:
    layers = DecoderConfig.of(GEMMA_3_1B).layers
    assert [layer.window for layer in layers[:7]] == [512] * 5 + [None, 512]
    thetas = [layer.rope.theta for layer in layers[:7] if layer.rope is not None]
    assert thetas == [10_000.0] * 5 + [1_000_000.0, 10_000.0]


def test_part_of_a_head_is_rotated_and_stretched_by_length() -> None:
    config = DecoderConfig.of(PHI_4_MINI)
    (rope,) = {layer.rope for layer in config.layers if layer.rope is not None}
    assert (config.head_dim, rope.size, rope.original_length) == (128, 96, 4096)
    # sqrt(1 + ln(131072 / 4096) / ln(4096)), LongRoPE's own correction.
    assert rope.amplitude == pytest.approx(1.1902380714238083, abs=1e-12)
    assert config.steady_length == 4096
