"""Training in bfloat16 follows training in float32."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from foundry.engines.training.config import Full, Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.kernels import scaled_norm
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.learner import Learner
from foundry.engines.training.packing import Batch

STEPS, LENGTH = 30, 64
# So low that an update is less than half a unit of what it is added to.
RATES = {"lora": 4e-3, "full": 1e-4}


def _batch(seed: int) -> Batch:
    """Four segments of tokens that follow a rule with exceptions."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (4 * LENGTH,), generator=generator)
    rule = (torch.arange(4 * LENGTH) * 7) % 50 + 3
    tokens = torch.where(torch.rand(4 * LENGTH, generator=generator) < 0.2, noise, rule)
    sources = torch.cat([torch.arange(i * LENGTH, (i + 1) * LENGTH - 1) for i in range(4)])
    return Batch(
        tokens_T=tokens,
        positions_T=torch.arange(LENGTH).repeat(4),
        segments=(LENGTH,) * 4,
        sources_N=sources,
        targets_N=tokens[sources + 1],
    )


def _train(model_dir: Path, method: Lora | Full, compute: torch.dtype) -> list[float]:
    """The losses, from weights that bfloat16 holds exactly."""
    model = load_model(
        model_dir,
        dtype=compute if method.kind == "lora" else torch.float32,
        compute_dtype=compute,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    if isinstance(method, Lora):
        lora.attach(model, method, seed=0)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    learner = Learner(model, trained, lr=0.0, weight_decay=0.0, grad_clip=1.0)
    return [learner.step([_batch(step)], RATES[method.kind]).loss for step in range(STEPS)]


@pytest.mark.parametrize("method", [Lora(rank=4, alpha=8), Full()], ids=["lora", "full"])
def test_the_losses_stay_within_a_hundredth_of_a_nat(tiny_model: Path, method: Lora | Full) -> None:
    wide = _train(tiny_model, method, torch.float32)
    narrow = _train(tiny_model, method, torch.bfloat16)
    assert wide[0] - wide[-1] > 0.05
    assert max(abs(a - b) for a, b in zip(narrow, wide, strict=True)) <= 0.006


def test_a_norm_of_a_wide_stream_is_rounded_once() -> None:
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.linspace(0.5, 2, 64).bfloat16()
    exact = x.double() / x.double().square().mean(-1, keepdim=True).add(1e-5).sqrt() * weight
    found = scaled_norm(x, weight, 1e-5, torch.bfloat16)
    assert found.dtype == torch.bfloat16
    # All but ties of float32's own rounding.
    assert (found != exact.bfloat16()).float().mean() <= 1e-3
    ones = torch.ones_like(found)
    (gradient,) = torch.autograd.grad(found, x, ones)
    (expected,) = torch.autograd.grad(exact, x, ones.double())
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, expected.float(), rtol=2e-2, atol=5e-3)


@torch.no_grad()
def test_the_residual_stream_is_float32_on_a_processor(tiny_model: Path) -> None:
    model = load_model(tiny_model, dtype=torch.bfloat16, compute_dtype=torch.bfloat16)
    seen: list[Tensor] = []
    layer = model.model.layers[1]
    layer.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
    hidden = model(torch.arange(3, 12), torch.arange(9), (9,))
    assert [x.dtype for x in seen] == [torch.float32, torch.float32]
    assert hidden.dtype == torch.bfloat16
