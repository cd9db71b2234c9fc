from pathlib import Path

import pytest
import torch

from foundry.engines.training.activations import (
    ActivationBudget,
    find_free_bytes,
    measure_bytes_per_token,
)
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.learner import Learner
from foundry.engines.training.packing import Batch


@pytest.fixture
def model(tiny_model: Path) -> Decoder:
    return load_model(tiny_model)


def _budget(model: Decoder, limit: int) -> ActivationBudget:
    return ActivationBudget(model, model.parameters(), limit)


def test_as_few_layers_recompute_as_will_do(model: Decoder) -> None:
    whole = measure_bytes_per_token(model) * 100
    per_layer, kept_input = whole / 2, 100 * 32 * 4
    assert per_layer > 2 * kept_input
    for limit, expected in (
        (whole + 1, 0),
        (whole - 1, 1),
        (per_layer + kept_input + 1, 1),
        (per_layer + kept_input - 1, 2),
        (0, 2),
    ):
        assert _budget(model, int(limit)).count_layers(100) == expected, limit
    assert _budget(model, int(whole) + 1).count_layers(101) == 1


def test_a_recomputed_layer_keeps_its_input_only(model: Decoder) -> None:
    """What is measured, measured again: per token, and not more for a cast or an adapter."""
    per_token = measure_bytes_per_token(model)
    assert measure_bytes_per_token(model) == per_token
    # At least queries, keys, values, gate, up and two norms' inputs of each of two layers.
    assert per_token > 2 * 4 * (32 + 16 + 16 + 48 + 48 + 32 + 32)
    assert model.recomputed_layers == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_pass_recomputes_what_its_length_needs_and_learns_the_same(tiny_model: Path) -> None:
    tokens = torch.arange(3, 40)

    def batch(size: int) -> Batch:
        part = tokens[:size]
        return Batch(part, torch.arange(size), (size,), torch.arange(size - 1), part[1:])

    losses = []
    for bounded in (False, True):
        model = load_model(tiny_model)
        limit = int(measure_bytes_per_token(model) * 20)
        learner = Learner(
            model,
            dict(model.named_parameters()),
            lr=1e-2,
            weight_decay=0.0,
            grad_clip=1.0,
            budget=_budget(model, limit) if bounded else None,
        )
        chosen = []
        for size in (10, 21, 37):
            losses.append(learner.step([batch(size)], 1e-2).loss)
            chosen.append(model.recomputed_layers)
        assert chosen == ([0, 1, 2] if bounded else [0, 0, 0])
    assert losses[:3] == losses[3:]


def test_auto_leaves_room_for_gradients_and_moments(
    model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "foundry.engines.training.activations.find_free_bytes"
    trained = sum(parameter.numel() for parameter in model.parameters())
    for free, expected in ((10**9, int(0.8 * (10**9 - 14 * trained))), (0, 0)):
        monkeypatch.setattr(module, lambda device, free=free: free)
        assert ActivationBudget(model, model.parameters(), "auto").limit == expected


def test_a_machine_has_some_memory_left() -> None:
    assert 2**20 < find_free_bytes(torch.device("cpu")) < 2**50
