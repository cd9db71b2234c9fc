from pathlib import Path

import torch

from foundry.engines.training.config import Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.dropout import Draws
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.learner import Learner
from foundry.engines.training.messages.rows import prepare
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.engines.training.packing import Batch, collate

Rows = list[dict[str, object]]


def test_a_share_is_dropped_and_the_mean_kept() -> None:
    x = torch.ones(10_000)
    dropped = Draws(0).dropout(x, 0.25, 0)
    assert set(dropped.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs((dropped == 0).float().mean() - 0.25) < 0.02


def test_masks_depend_on_seed_pass_and_place() -> None:
    x = torch.ones(64)
    draws, other = Draws(0), Draws(1)
    first = draws.dropout(x, 0.5, 0)
    assert torch.equal(first, draws.dropout(x, 0.5, 0))
    assert not torch.equal(first, draws.dropout(x, 0.5, 1))
    assert not torch.equal(first, other.dropout(x, 0.5, 0))
    draws.begin_pass()
    assert not torch.equal(first, draws.dropout(x, 0.5, 0))
    draws.passes = 0
    assert torch.equal(first, draws.dropout(x, 0.5, 0))


def _learner(model_dir: Path, seed: int, *, recompute: bool = False) -> Learner:
    model = load_model(model_dir)
    config = Lora(rank=4, dropout=0.3)
    model.recomputed_layers = 2 * recompute
    draws = lora.attach(model, config, seed)
    names = lora.declared_names(model, config)
    return Learner(
        model,
        lora.trainable(model, names),
        lr=1e-2,
        weight_decay=0.0,
        grad_clip=1.0,
        draws=draws,
    )


def _batch(model_dir: Path, rows: Rows) -> Batch:
    prepared = prepare(rows, ChatTokenizer.load(model_dir), max_seq_len=160, too_long="error")
    return collate(prepared.examples, torch.device("cpu"))


def test_two_runs_in_one_process_do_not_disturb_each_other(
    tiny_model: Path, chat_rows: Rows
) -> None:
    batch = _batch(tiny_model, chat_rows[:2])
    alone = _learner(tiny_model, 1)
    expected = [alone.step([batch], 1e-2) for _ in range(3)]
    one, other = _learner(tiny_model, 1), _learner(tiny_model, 2)
    before = torch.get_rng_state()
    mixed = []
    for _ in range(3):
        mixed.append(one.step([batch], 1e-2))
        other.step([batch], 1e-2)
        torch.rand(7)
    assert mixed == expected
    torch.set_rng_state(before)


def test_a_run_leaves_the_global_generator_alone(tiny_model: Path, chat_rows: Rows) -> None:
    before = torch.get_rng_state()
    _learner(tiny_model, 1).step([_batch(tiny_model, chat_rows[:2])], 1e-2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_recomputed_layer_drops_what_it_dropped_the_first_time(
    tiny_model: Path, chat_rows: Rows
) -> None:
    batch = _batch(tiny_model, chat_rows[:2])
    kept, recomputed = _learner(tiny_model, 1), _learner(tiny_model, 1, recompute=True)
    assert kept.step([batch], 1e-2) == recomputed.step([batch], 1e-2)
    for name, parameter in kept.parameters.items():
        assert torch.equal(parameter, recomputed.parameters[name])
