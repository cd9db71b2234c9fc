import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foundry.engines.training.decoder import kernels
from foundry.engines.training.decoder.weights import export_model, load_model
from foundry.engines.training.files import write_json
from foundry.errors import InvalidArtifact


def _stream(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 259, (sum(lengths),), generator=generator)
    return tokens, torch.cat([torch.arange(n) for n in lengths])


@torch.no_grad()
def test_logits_equal_those_of_transformers(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = load_model(tiny_model)
    tokens, positions = _stream(19, 11)
    ours = model.lm_head(model(tokens, positions, (19, 11)))
    theirs = torch.cat([reference(part[None]).logits[0] for part in torch.split(tokens, [19, 11])])
    assert (ours - theirs).abs().max() <= 1e-5


@torch.no_grad()
def test_a_segment_does_not_see_its_neighbours(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    tokens, positions = _stream(9, 14, 5)
    before = model(tokens, positions, (9, 14, 5))
    changed = tokens.clone()
    changed[9:23] = (changed[9:23] + 1) % 259
    after = model(changed, positions, (9, 14, 5))
    assert torch.equal(before[:9], after[:9])
    assert torch.equal(before[23:], after[23:])
    assert not torch.equal(before[9:23], after[9:23])


@torch.no_grad()
def test_a_token_does_not_see_later_ones(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    tokens, positions = _stream(12)
    changed = tokens.clone()
    changed[-1] = (changed[-1] + 1) % 259
    before, after = model(tokens, positions, (12,)), model(changed, positions, (12,))
    assert torch.equal(before[:-1], after[:-1])


def test_recomputed_activations_give_the_same_gradients(tiny_model: Path) -> None:
    tokens, positions = _stream(10)
    grads = []
    for recompute in (False, True):
        model = load_model(tiny_model)
        model.recomputed_layers = 2 * recompute
        torch.autograd.backward(model(tokens, positions, (10,)).square().sum())
        grads.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*grads, strict=True):
        assert plain is not None and recomputed is not None
        assert torch.equal(plain, recomputed)


def test_gradients_equal_those_of_transformers(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = load_model(tiny_model)
    tokens, positions = _stream(17)
    torch.autograd.backward(model.lm_head(model(tokens, positions, (17,))).square().mean())
    torch.autograd.backward(reference(tokens[None]).logits.square().mean())
    expected = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6)


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_the_gradient_of_every_activation_passes_a_numerical_check(
    activation: kernels.Activation,
) -> None:
    torch.manual_seed(0)
    w, a, b, bias = _double(6, 4), _double(2, 4), _double(6, 2), _double(6)
    gate, up = _double(5, 4), _double(5, 4)
    assert torch.autograd.gradcheck(
        lambda g, u, w, a, b, bias: kernels.gated_projection(g, u, w, a, b, 0.7, bias, activation),
        (gate, up, w, a, b, bias),
    )


def test_every_fused_gradient_passes_a_numerical_check() -> None:
    torch.manual_seed(0)
    x, w, a, b = _double(5, 4), _double(6, 4), _double(2, 4), _double(6, 2)
    angles = torch.randn(5, 1, 2, dtype=torch.float64)
    check = torch.autograd.gradcheck
    assert check(
        lambda g, u, w, a, b: kernels.gated_projection(g, u, w, a, b, 0.7),
        (_double(5, 4), _double(5, 4), w, a, b),
    )
    assert check(
        lambda g, u, w: kernels.gated_projection(g, u, w, None, None, 0.0),
        (_double(5, 4), _double(5, 4), w),
    )
    assert check(lambda x, w: kernels.scaled_norm(x, w, 1e-5), (x, _double(4)))
    assert check(lambda x: kernels.rotate(x, angles.cos(), angles.sin()), (_double(5, 3, 4),))


def _config_with(tiny_model: Path, target: Path, **changes: object) -> Path:
    document = json.loads((tiny_model / "config.json").read_text())
    write_json(target / "config.json", {**document, **changes})
    return target


def test_weights_that_do_not_fit_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    _config_with(tiny_model, tmp_path, intermediate_size=64)
    (tmp_path / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes())
    with pytest.raises(InvalidArtifact, match="has shape"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08garbage")
    with pytest.raises(InvalidArtifact, match="cannot be read"):
        load_model(tmp_path)


def test_an_exported_model_is_a_complete_directory(tiny_model: Path, tmp_path: Path) -> None:
    export_model(load_model(tiny_model), tiny_model, tmp_path, torch.float32)
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in tiny_model.iterdir()}
    original, copy = load_model(tiny_model), load_model(tmp_path)
    for first, second in zip(original.parameters(), copy.parameters(), strict=True):
        assert torch.equal(first, second)
