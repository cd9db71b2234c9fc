"""Every parameter has one place, in the fragment of its layer."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foundry.engines.training.config import Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.diloco.layout import Layout
from foundry.errors import InvalidRequest


def layered(layers: int, prefix: str = "model.") -> dict[str, Tensor]:
    shapes = {"attn.weight": (3, 2), "mlp.weight": (2, 2), "norm.weight": (2,)}
    named = {
        f"{prefix}layers.{layer}.{name}": shape
        for layer in range(layers)
        for name, shape in shapes.items()
    }
    named |= {f"{prefix}embed.weight": (5, 2), f"{prefix}norm.weight": (2,)}
    random = torch.Generator().manual_seed(layers)
    return {name: torch.randn(shape, generator=random) for name, shape in named.items()}


@settings(deadline=None)
@given(st.integers(1, 13), st.integers(1, 13), st.sampled_from(["model.", "", "a.b."]))
def test_every_parameter_is_covered_once(layers: int, fragments: int, prefix: str) -> None:
    parameters = layered(layers, prefix)
    fragments = min(fragments, layers)
    layout = Layout.of(parameters, fragments)
    assert layout.fragments == fragments
    assert sorted(place.name for place in layout.places) == sorted(parameters)
    assert layout.places[0].start == layout.bounds[0] == 0
    assert layout.places[-1].stop == layout.size == sum(p.numel() for p in parameters.values())
    for place, after in pairwise(layout.places):
        assert place.stop == after.start
    assert {place.start for place in layout.places} >= set(layout.bounds[:-1])
    for place in layout.places:
        assert place.stop - place.start == parameters[place.name].numel()
        assert place.shape == tuple(parameters[place.name].shape)


@settings(deadline=None)
@given(st.integers(1, 13), st.integers(1, 13), st.sampled_from(["model.", "", "a.b."]))
def test_layers_are_strided(layers: int, fragments: int, prefix: str) -> None:
    layout = Layout.of(layered(layers, prefix), min(fragments, layers))
    for place in layout.places:
        whole = [f for f in range(layout.fragments) if place.start in _range(layout, f)]
        if ".layers." in f".{place.name}":
            layer = int(place.name.removeprefix(prefix).split(".")[1])
            assert whole == [layer % layout.fragments]
        else:
            assert len(whole) == 1


def _range(layout: Layout, fragment: int) -> range:
    return range(layout.bounds[fragment], layout.bounds[fragment + 1])


def test_what_is_in_no_layer_goes_to_the_smallest_fragment() -> None:
    layout = Layout.of(layered(3), 2)
    # Layers 0 and 2 have 24 values, layer 1 has 12; the embeddings' 10 and the norm's 2 join it.
    assert layout.bounds == (0, 24, 48)
    assert [place.name for place in layout.places[6:]] == [
        "model.layers.1.attn.weight",
        "model.layers.1.mlp.weight",
        "model.layers.1.norm.weight",
        "model.embed.weight",
        "model.norm.weight",
    ]


def test_the_order_of_the_parameters_does_not_matter() -> None:
    parameters = layered(4)
    backwards = dict(reversed(parameters.items()))
    assert Layout.of(parameters, 3) == Layout.of(backwards, 3)


def test_more_fragments_than_there_is_model_is_said() -> None:
    with pytest.raises(InvalidRequest, match="too few layers for 8 fragments"):
        Layout.of(layered(2), 8)


def test_read_and_write_are_inverse_and_touch_one_fragment() -> None:
    parameters = layered(5)
    before = {name: value.clone() for name, value in parameters.items()}
    layout = Layout.of(parameters, 3)
    values = layout.read(parameters, 1)
    assert values.size == layout.bounds[2] - layout.bounds[1]
    layout.write(values + 1, parameters, 1)
    inside = {p.name for p in layout.places if layout.bounds[1] <= p.start < layout.bounds[2]}
    for name, value in parameters.items():
        assert torch.equal(value, before[name] + 1 if name in inside else before[name])
    assert (layout.read(parameters, 1) == values + 1).all()


def test_a_read_is_a_copy() -> None:
    parameters = layered(1)
    layout = Layout.of(parameters, 1)
    values = layout.read(parameters, 0)
    for parameter in parameters.values():
        parameter.zero_()
    assert np.count_nonzero(values) == values.size


def test_tied_embeddings_have_one_place(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    layout = Layout.of(dict(model.named_parameters()), 2)
    names = [place.name for place in layout.places]
    assert names.count("model.embed_tokens.weight") == 1
    assert "lm_head.weight" not in names
    assert layout.size == sum(p.numel() for p in model.parameters())


def test_adapters_are_strided_too(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    method = Lora(rank=2)
    lora.attach(model, method, seed=0)
    parameters = lora.trainable(model, lora.declared_names(model, method))
    layout = Layout.of(parameters, 2)
    assert {place.name for place in layout.places if place.stop <= layout.bounds[1]} == {
        name for name in parameters if ".layers.0." in name
    }
