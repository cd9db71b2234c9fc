"""Options of memory, and many adapters in one pass, on the device."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from foundry.engines.training.bank import AdapterBank, Request
from foundry.engines.training.config import Full, Lora
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.devices import read_traits
from foundry.engines.training.optimisers.params import AdamParams
from foundry.engines.training.packing import Batch
from foundry.engines.training.precision import find_rule
from tests.gpu.test_training import CONFIG, train

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "options",
    [{"optimiser": "adamw-8bit"}, {"activation_budget": "auto"}, {"activation_budget": 0}],
    ids=str,
)
def test_a_run_learns_the_same_with_less_memory(
    device: torch.device, model_dir: Path, tmp_path: Path, options: Mapping[str, object]
) -> None:
    _compare(device, model_dir, tmp_path, options)


def test_masters_on_the_host_learn_the_same(
    accelerator: torch.device, model_dir: Path, tmp_path: Path
) -> None:
    _compare(accelerator, model_dir, tmp_path, {"offload": True})
    _compare(accelerator, model_dir, tmp_path / "8", {"offload": True, "optimiser": "adamw-8bit"})


def _compare(
    device: torch.device, model_dir: Path, work_dir: Path, options: Mapping[str, object]
) -> None:
    precision = find_rule(read_traits(device)).formats[0]
    config = CONFIG.model_copy(update={"method": Full(), "lr": 3e-4, "precision": precision})
    _, plain = train(config, model_dir, work_dir / "plain", device)
    _, frugal = train(config.model_copy(update=options), model_dir, work_dir / "frugal", device)
    for one, other in zip(frugal, plain, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=0.03)


def test_adapters_of_a_bank_do_not_see_each_other(device: torch.device, model_dir: Path) -> None:
    """float32: a mixed pass equals separate ones but for the order of sums."""
    configs = {"wide": Lora(rank=16, dropout=0.2), "narrow": Lora(rank=2, targets=("attn",))}
    generator = torch.Generator().manual_seed(0)
    batches = {}
    for name, size in (("wide", 40), ("narrow", 23)):
        tokens = torch.randint(0, 200, (size,), generator=generator).to(device)
        places = torch.arange(size, device=device)
        batches[name] = Batch(tokens, places, (size,), places[:-1], tokens[1:])
    losses = []
    for together in (True, False):
        bank = AdapterBank(load_model(model_dir, device=device))
        for seed, (name, config) in enumerate(configs.items()):
            bank.add(name, config, seed=seed)
        for _ in range(3):
            requests = [Request(name, batch) for name, batch in batches.items()]
            if together:
                outcomes = bank.forward_backward(requests)
            else:
                outcomes = [bank.forward_backward([request])[0] for request in requests]
            for name in configs:
                bank.optim_step(name, AdamParams(lr=1e-2))
        losses.append([outcome.loss for outcome in outcomes])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
