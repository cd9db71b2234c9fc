"""Numbered batches: the same wherever they are trained."""

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.engines.training.config import Full, Lora, SftConfig
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.messages.rows import Prepared
from foundry.engines.training.messages.targets import Example
from foundry.engines.training.packing import Batch
from foundry.engines.training.sampler import Cursor, Item, Sampler
from foundry.engines.training.workload import SftWorkload, run_digest
from foundry.errors import InvalidDataset

Rows = list[dict[str, object]]
CONFIG = SftConfig(
    method=Full(), epochs=3, batch_size=5, micro_batch_size=2, max_seq_len=160, lr=1e-2
)


def workload(model: Path, rows: Rows, config: SftConfig = CONFIG) -> SftWorkload:
    return SftWorkload.prepare(config, model, rows, rows[:3], device="cpu")


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.segments == b.segments
        and all(
            torch.equal(getattr(a, name), getattr(b, name))
            for name in ("tokens_T", "positions_T", "sources_N", "targets_N")
        )
        for a, b in zip(one, other, strict=True)
    )


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=50),
    st.integers(1, 9),
    st.booleans(),
    st.integers(0, 3),
)
def test_a_number_means_what_walking_there_means(
    lengths: list[int], batch_size: int, packing: bool, seed: int
) -> None:
    config = SftConfig(
        epochs=3,
        batch_size=batch_size,
        micro_batch_size=1,
        max_seq_len=64,
        packing=packing,
        seed=seed,
    )
    walker, cursor = Sampler(lengths, config), Cursor()
    walked: list[list[Item]] = []
    while cursor.epoch < 5:
        items, cursor = walker.batch(cursor)
        walked.append(items)
    total = Sampler(lengths, config).total_steps()
    jumper = Sampler(lengths, config)
    # Backwards, so that no order of asking matters.
    assert [jumper.items(n) for n in reversed(range(len(walked)))] == walked[::-1]
    epochs = [i for items in walked[:total] for item in items for i in item]
    assert sorted(epochs) == sorted(list(range(len(lengths))) * 3)


@pytest.mark.parametrize("packing", [False, True])
def test_batches_are_those_of_the_cursor(tiny_model: Path, chat_rows: Rows, packing: bool) -> None:
    config = CONFIG.model_copy(update={"packing": packing})
    one, other = (workload(tiny_model, chat_rows, config) for _ in range(2))
    cursor = Cursor()
    for number in range(one.total_batches + 4):
        walked, cursor = one.batch(cursor)
        assert same(other.batches(number), walked)
    assert cursor.epoch > 3


def test_a_batch_is_cut_into_micro_batches(tiny_model: Path, chat_rows: Rows) -> None:
    sft = workload(tiny_model, chat_rows)
    # 12 rows, 5 a batch: 5, 5 and 2; at 2 a micro-batch.
    assert sft.total_batches == 9
    sizes = [[len(micro.segments) for micro in sft.batches(number)] for number in range(3)]
    assert sizes == [[2, 2, 1], [2, 2, 1], [2]]
    assert [len(micro.segments) for micro in sft.evaluation()] == [2, 1]


def test_max_steps_overrides_epochs(tiny_model: Path, chat_rows: Rows) -> None:
    sft = workload(tiny_model, chat_rows, CONFIG.model_copy(update={"max_steps": 40}))
    assert sft.total_batches == 40
    assert len(sft.batches(39)) == 3


def test_two_workers_start_from_the_same_weights_and_export_what_they_have(
    tiny_model: Path, chat_rows: Rows, tmp_path: Path
) -> None:
    one, other = (workload(tiny_model, chat_rows) for _ in range(2))
    for name, parameter in one.learner.parameters.items():
        assert torch.equal(parameter, other.learner.parameters[name])
    assert one.digest() == other.digest()
    outcomes = [sft.learner.step(sft.batches(1), 1e-2) for sft in (one, other)]
    assert outcomes[0] == outcomes[1]
    one.export(tmp_path / "model")
    exported = dict(load_model(tmp_path / "model").named_parameters())
    assert exported.keys() == one.learner.parameters.keys()
    for name, parameter in one.learner.parameters.items():
        assert torch.equal(parameter, exported[name])


def test_with_an_adapter_only_the_adapter_is_trained(tiny_model: Path, chat_rows: Rows) -> None:
    config = CONFIG.model_copy(update={"method": Lora(rank=2, targets=("attn",))})
    names = set(workload(tiny_model, chat_rows, config).learner.parameters)
    assert names == {
        f"model.layers.{layer}.self_attn.{module}_proj.lora_{matrix}"
        for layer in range(2)
        for module in "qkvo"
        for matrix in "AB"
    }


def test_nothing_to_train_on_is_said(tiny_model: Path) -> None:
    with pytest.raises(InvalidDataset, match="no row is left"):
        workload(tiny_model, [{"messages": [{"role": "user", "content": "anyone?"}]}])


def test_products_of_half_precision_are_summed_in_float32(
    tiny_model: Path, chat_rows: Rows
) -> None:
    options = torch.backends.cuda.matmul
    options.allow_bf16_reduced_precision_reduction = True
    options.allow_fp16_reduced_precision_reduction = True
    workload(tiny_model, chat_rows)
    assert not options.allow_bf16_reduced_precision_reduction
    assert not options.allow_fp16_reduced_precision_reduction


def test_a_run_without_shares_has_the_digest_of_before_there_were_any(tmp_path: Path) -> None:
    examples = [Example((5, 6, 7), (0.0, 1.0, 1.0)), Example((8, 9), (0.0, 1.0))]
    expected = hashlib.sha256(CONFIG.digest().encode())
    for tokens, trained in (((5, 6, 7), (False, True, True)), ((8, 9), (False, True))):
        expected.update(repr((tokens, trained)).encode())
    assert run_digest(CONFIG, tmp_path, examples) == expected.hexdigest()
    shared = [examples[0], Example((8, 9), (0.0, 0.5))]
    assert run_digest(CONFIG, tmp_path, shared) != expected.hexdigest()


def test_tokens_that_the_model_has_no_embedding_for_are_refused(tiny_model: Path) -> None:
    beyond = Prepared((Example((5, 259, 6), (0.0, 1.0, 1.0)),))
    with pytest.raises(InvalidDataset, match="makes token 259 of the rows, the model has 259"):
        SftWorkload(CONFIG, tiny_model, beyond, Prepared(()), "cpu")
    fits = Prepared((Example((5, 258, 6), (0.0, 1.0, 1.0)),))
    with pytest.raises(InvalidDataset, match="token 259"):
        SftWorkload(CONFIG, tiny_model, fits, beyond, "cpu")
