from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foundry.engines.training.config import SftConfig
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.messages.targets import Example
from foundry.engines.training.objectives.cross_entropy import cross_entropy_sum
from foundry.engines.training.packing import collate, pack
from foundry.engines.training.sampler import Cursor, Sampler

CPU = torch.device("cpu")


def test_first_fit_decreasing_by_hand() -> None:
    assert pack([4, 8, 1, 4, 2, 1], 10) == [[1, 4], [0, 3, 2, 5]]


def test_windows_do_not_mix() -> None:
    assert pack([6, 6, 4, 4], 10, window=2) == [[0], [1], [2, 3]]


def test_what_fits_nowhere_is_an_error() -> None:
    with pytest.raises(ValueError, match="11 tokens"):
        pack([11], 10)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 70))
def test_every_sequence_is_packed_once(lengths: list[int], window: int) -> None:
    packs = pack(lengths, 50, window)
    assert sorted(i for members in packs for i in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= 50 for members in packs)
    # First fit: two packs of one window that could be merged cannot exist.
    if window >= len(lengths):
        totals = [sum(lengths[i] for i in members) for members in packs]
        assert sum(total <= 25 for total in totals) <= 1


def _examples() -> list[Example]:
    torch.manual_seed(0)
    return [
        Example(
            tuple(torch.randint(0, 259, (size,)).tolist()),
            tuple(i >= size // 2 for i in range(size)),
        )
        for size in (7, 12, 9)
    ]


def test_targets_are_shifted_inside_each_segment() -> None:
    first = Example((5, 6, 7), (True, False, True))
    second = Example((8, 9), (True, True))
    batch = collate([first, second], CPU)
    assert batch.tokens_T.tolist() == [5, 6, 7, 8, 9]
    assert batch.positions_T.tolist() == [0, 1, 2, 0, 1]
    assert batch.segments == (3, 2)
    # A first token has nothing before it, and 7 does not predict 8.
    assert batch.sources_N.tolist() == [1, 3]
    assert batch.targets_N.tolist() == [7, 9]


def test_packed_loss_and_gradient_equal_unpacked(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    parameters = list(model.parameters())

    def loss(examples: list[Example]) -> torch.Tensor:
        batch = collate(examples, CPU)
        hidden = model(batch.tokens_T, batch.positions_T, batch.segments)
        return cross_entropy_sum(hidden[batch.sources_N], model.lm_head.weight, batch.targets_N)

    packed = loss(_examples())
    alone = torch.stack([loss([example]) for example in _examples()]).sum()
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(packed, parameters),
        torch.autograd.grad(alone, parameters),
        rtol=1e-4,
        atol=1e-4,
    )


def test_an_epoch_visits_every_example_once_and_the_next_in_another_order() -> None:
    sampler = Sampler([3] * 10, SftConfig(epochs=2, batch_size=4, micro_batch_size=4, seed=1))
    assert sampler.total_steps() == 6
    cursor = Cursor()
    epochs: list[list[int]] = []
    for epoch in (0, 1):
        seen: list[int] = []
        while cursor.epoch == epoch:
            items, cursor = sampler.batch(cursor)
            seen.extend(index for item in items for index in item)
        epochs.append(seen)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_seed_and_cursor_only() -> None:
    config = SftConfig(batch_size=2, micro_batch_size=2, packing=True, max_seq_len=20)
    lengths = [9, 4, 12, 7, 3, 8, 16]
    walked = Sampler(lengths, config)
    walked.batch(Cursor(0, 0))
    expected = walked.batch(Cursor(1, 1))
    assert Sampler(lengths, config).batch(Cursor(1, 1)) == expected
    assert all(sum(lengths[i] for i in item) <= 20 for item in expected[0])
