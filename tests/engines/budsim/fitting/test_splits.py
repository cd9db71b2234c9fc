"""No measurement is judged by a model that has seen it, its configuration or its group."""

from dataclasses import replace

import numpy as np
import pytest

from foundry.engines.budsim.fitting.rows import Rows
from foundry.engines.budsim.fitting.splits import SPLITS, STRICT_SPLITS, folds, labels
from tests.engines.budsim.fitting.synthetic import synthetic_rows

EVERY = (*SPLITS, *STRICT_SPLITS)
# Every configuration measured twice.
TWICE = synthetic_rows(90).take(np.repeat(np.arange(90), 2))


def _check(rows: Rows, split: str) -> list[np.ndarray]:
    masks = list(folds(rows, split))
    assert np.sum(masks, axis=0).tolist() == [1] * len(rows)
    groups = labels(rows, split)
    for mask in masks:
        assert mask.any()
        assert not set(rows.configuration[mask]) & set(rows.configuration[~mask])
        assert not set(groups[mask]) & set(groups[~mask])
    return masks


@pytest.mark.parametrize("split", EVERY)
def test_each_row_is_left_out_once_with_its_whole_group(split: str) -> None:
    masks = _check(TWICE, split)
    groups = len(set(labels(TWICE, split)))
    dealt = split == "random" or split.startswith("family")
    assert len(masks) == (min(groups, 5) if dealt else groups)


@pytest.mark.parametrize("split", EVERY)
@pytest.mark.parametrize("name", ["serving", "pilot", "static"])
def test_measured_rows_are_left_out_once(
    name: str, split: str, request: pytest.FixtureRequest
) -> None:
    rows: Rows = request.getfixturevalue(name)
    masks = _check(rows, split)
    dealt = split == "random" or split.startswith("family")
    assert len(masks) == (5 if dealt else len(set(labels(rows, split))))


def test_groups_by_hand() -> None:
    rows = TWICE.take(np.asarray([0]))
    model, gpu, engine = rows.model[0], rows.gpu[0], rows.engine[0]
    tp = int(rows.points.tp[0])
    assert labels(rows, "family and tp")[0] == f"{model} | {gpu} | {engine} | {tp}"
    assert labels(rows, "GPU and engine pair")[0] == f"{gpu} | {engine}"
    assert labels(rows, "random")[0] == rows.configuration[0]


def test_one_architecture_under_two_names_leaves_together() -> None:
    names = TWICE.model.astype("<U40")
    names[::2] = np.char.add(names[::2], " again")
    renamed = replace(TWICE, model=names)
    shapes = renamed.architecture
    assert len(set(names)) > len(set(shapes))
    for mask in folds(renamed, "model by architecture"):
        assert not set(shapes[mask]) & set(shapes[~mask])
    assert any(set(shapes[mask]) & set(shapes[~mask]) for mask in folds(renamed, "model"))


def test_a_seed_deals_differently_and_repeats_itself() -> None:
    one, again, other = (
        np.stack(list(folds(TWICE, "random", seed))).tolist() for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other
