"""Several adapters in one pass are the same trainings apart."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from foundry.engines.training.bank import AdapterBank, Request
from foundry.engines.training.config import Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.learner import Learner
from foundry.engines.training.objectives.policy import Ppo
from foundry.engines.training.optimisers.params import AdamParams
from foundry.engines.training.packing import Batch
from foundry.errors import Conflict, InvalidArtifact, NotFound

ADAM = AdamParams(lr=1e-2, grad_clip_norm=1.0)
CONFIGS = {
    "wide": Lora(rank=16, alpha=16, targets=("attn", "mlp", "unembed"), dropout=0.2),
    "narrow": Lora(rank=3, alpha=12, targets=("attn",)),
    "head": Lora(rank=2, alpha=2, targets=("unembed",)),
    "deep": Lora(rank=8, alpha=4, targets=("mlp",)),
}


def make_batch(number: int, *sizes: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(0, 200, (sum(sizes),), generator=generator)
    starts = torch.tensor((0, *sizes[:-1])).cumsum(0)
    ends = {int(start) + size - 1 for start, size in zip(starts, sizes, strict=True)}
    sources = torch.tensor([i for i in range(sum(sizes)) if i not in ends])
    return Batch(
        tokens_T=tokens,
        positions_T=torch.cat([torch.arange(size) for size in sizes]),
        segments=sizes,
        sources_N=sources,
        targets_N=tokens[sources + 1],
        weights_N=torch.randn(len(sources), generator=generator),
    )


def warmed(bank: AdapterBank, names: Sequence[str]) -> None:
    """B is no longer zero, so that A has gradients, too."""
    for name in names:
        generator = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for key, parameter in bank.parameters(name).items():
                if key.endswith("lora_B"):
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(0.1 * noise)


def make_bank(tiny_model: Path, names: Sequence[str] = tuple(CONFIGS)) -> AdapterBank:
    bank = AdapterBank(load_model(tiny_model))
    for seed, name in enumerate(CONFIGS):
        if name in names:
            bank.add(name, CONFIGS[name], seed=seed)
    warmed(bank, names)
    return bank


def requests() -> list[Request]:
    """Four adapters in five requests, one of them twice; and the base alone."""
    batches = [make_batch(0, 5, 9), make_batch(1, 12), make_batch(2, 3, 3, 4), make_batch(3, 8)]
    found = [
        Request("wide", batches[0], denominator=7.0),
        Request("narrow", batches[1]),
        Request(None, batches[1]),
        Request("head", batches[2], denominator=2.0),
        Request("deep", batches[3]),
        Request("wide", batches[1], denominator=3.0),
    ]
    values = {
        "sampling_log_probs": torch.full((11,), -5.0),
        "advantages": torch.linspace(-1, 1, 11),
    }
    found[1] = replace(found[1], batch=replace(batches[1], values=values), objective=Ppo())
    return found


def gradients(bank: AdapterBank, name: str) -> dict[str, Tensor]:
    found = {key: p.grad for key, p in bank.parameters(name).items()}
    return {key: grad.clone() for key, grad in found.items() if grad is not None}


def test_a_mixed_pass_equals_separate_passes(tiny_model: Path) -> None:
    mixed = make_bank(tiny_model)
    outcomes = mixed.forward_backward(requests())
    for name in (None, *CONFIGS):
        alone = make_bank(tiny_model)
        own = [request for request in requests() if request.adapter == name]
        expected = [alone.forward_backward([request])[0] for request in own]
        found = [
            outcome
            for outcome, request in zip(outcomes, requests(), strict=True)
            if request.adapter == name
        ]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.log_probs, theirs.log_probs, rtol=0, atol=1e-6)
            assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-5)
        if name is None:
            continue
        together, apart = gradients(mixed, name), gradients(alone, name)
        assert together.keys() == set(mixed.parameters(name))
        assert all(gradient.abs().max() > 0 for gradient in together.values())
        torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)


def test_one_adapter_of_the_bank_is_an_ordinary_training(tiny_model: Path) -> None:
    config = CONFIGS["wide"]
    bank = make_bank(tiny_model)
    model = load_model(tiny_model)
    draws = lora.attach(model, config, seed=0)
    names = lora.declared_names(model, config)
    learner = Learner(
        model, lora.trainable(model, names), lr=0, weight_decay=0, grad_clip=0, draws=draws
    )
    with torch.no_grad():
        for key, parameter in bank.parameters("wide").items():
            learner.parameters[key].copy_(parameter)
    for number in range(3):
        batch = make_batch(number, 6, 7)
        bank.forward_backward([Request("narrow", batch), Request("wide", batch)])
        learner.forward_backward([batch])
        bank.optim_step("wide", ADAM)
        learner.optim_step(ADAM)
    for key, parameter in bank.parameters("wide").items():
        torch.testing.assert_close(parameter, learner.parameters[key], rtol=0, atol=1e-5)


def test_each_adapter_has_its_own_update(tiny_model: Path) -> None:
    bank = make_bank(tiny_model)
    before = {name: {k: p.clone() for k, p in bank.parameters(name).items()} for name in bank.names}
    bank.forward_backward(requests())
    assert bank.optim_step("narrow", ADAM).applied
    assert gradients(bank, "narrow") == {}
    assert len(gradients(bank, "deep")) == len(before["deep"])
    for name in bank.names:
        moved = [not torch.equal(p, before[name][k]) for k, p in bank.parameters(name).items()]
        assert all(moved) if name == "narrow" else not any(moved)
    assert not any(parameter.requires_grad for parameter in bank._model.parameters())


def test_adapters_come_and_go(tiny_model: Path) -> None:
    bank = make_bank(tiny_model, ("narrow",))
    with pytest.raises(Conflict, match="adapter 'narrow' already"):
        bank.add("narrow", CONFIGS["narrow"], seed=0)
    bank.add("deep", CONFIGS["deep"], seed=1)
    bank.remove("narrow")
    assert bank.names == ("deep",)
    batch = make_batch(0, 5)
    for call in (
        lambda: bank.remove("narrow"),
        lambda: bank.optim_step("narrow", ADAM),
        lambda: bank.forward([Request("narrow", batch)]),
    ):
        with pytest.raises(NotFound, match="no adapter 'narrow'"):
            call()
    # A fresh adapter changes nothing.
    fresh, base = bank.forward([Request("deep", batch), Request(None, batch)])
    torch.testing.assert_close(fresh.log_probs, base.log_probs)
    assert bank.forward([]) == bank.forward_backward([]) == []


def test_an_exported_adapter_comes_back(tiny_model: Path, tmp_path: Path) -> None:
    bank = make_bank(tiny_model)
    bank.export("wide", tmp_path / "wide")
    names = load_file(tmp_path / "wide" / "adapter_model.safetensors").keys()
    assert "base_model.model.lm_head.lora_B.weight" in names
    bank.load("copy", tmp_path / "wide", seed=5)
    batch = make_batch(0, 9)
    original, copy = bank.forward([Request("wide", batch), Request("copy", batch)])
    torch.testing.assert_close(copy.log_probs, original.log_probs, rtol=0, atol=1e-6)
    (tmp_path / "wide" / "adapter_config.json").write_text("{")
    with pytest.raises(InvalidArtifact):
        bank.load("broken", tmp_path / "wide", seed=5)
    assert "broken" not in bank.names


def test_a_saved_adapter_goes_on_bit_for_bit(tiny_model: Path) -> None:
    def train(bank: AdapterBank, numbers: Sequence[int]) -> None:
        for number in numbers:
            bank.forward_backward([Request("wide", make_batch(number, 6, 5))])
            bank.optim_step("wide", ADAM)

    whole, resumed = make_bank(tiny_model), make_bank(tiny_model)
    train(whole, range(2))
    resumed.load_state("wide", {key: value.clone() for key, value in whole.state("wide").items()})
    for bank in (whole, resumed):
        train(bank, range(2, 4))
    for key, value in whole.state("wide").items():
        assert torch.equal(resumed.state("wide")[key], value), key


def test_a_state_of_another_rank_is_refused_and_changes_nothing(tiny_model: Path) -> None:
    bank = make_bank(tiny_model)
    bank.add("other", Lora(rank=1, alpha=12, targets=("attn",)), seed=9)
    before = {key: value.clone() for key, value in bank.state("narrow").items()}
    with pytest.raises(InvalidArtifact, match=r"does not fit the adapter: .*lora_A"):
        bank.load_state("narrow", bank.state("other"))
    whole = dict(before)
    whole["exp_avg.model.layers.0.self_attn.q_proj.lora_A"] = torch.zeros(1)
    with pytest.raises(InvalidArtifact, match=r"does not fit the adapter: exp_avg"):
        bank.load_state("narrow", whole)
    after = bank.state("narrow")
    assert all(torch.equal(after[key], value) for key, value in before.items())


@torch.no_grad()
def test_between_passes_the_banks_model_is_the_base(tiny_model: Path) -> None:
    base, model = load_model(tiny_model), load_model(tiny_model)
    bank = AdapterBank(model)
    bank.add("one", CONFIGS["narrow"], seed=0)
    warmed(bank, ["one"])
    batch = make_batch(3, 9)
    stream = (batch.tokens_T, batch.positions_T, batch.segments)
    assert torch.equal(model(*stream), base(*stream))
    bank.forward([Request("one", batch)])
    assert torch.equal(model(*stream), base(*stream))
    longer = make_batch(4, 12)
    stream = (longer.tokens_T, longer.positions_T, longer.segments)
    assert torch.equal(model(*stream), base(*stream))
