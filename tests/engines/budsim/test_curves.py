"""Latency against concurrency: growth, interpolation and the effect of the chunk."""

from dataclasses import replace

import numpy as np
import pytest

from foundry.engines.budsim.artifact import load
from foundry.engines.budsim.configuration import Floats
from foundry.engines.budsim.curves import FIELDS, GRID, TAIL_FEATURES, Curves, curves, tail_matrix
from foundry.engines.budsim.points import DEFAULT_CHUNK
from foundry.engines.budsim.prediction import NOVELTIES
from foundry.engines.budsim.request import Method
from tests.engines.budsim.serving_cases import points, random_points
from tests.fakes.models import LLAMA_70B

ARTIFACT = load()
SOME = replace(random_points(60), engine=np.tile([0.0, 1.0, 2.0], 20), dp=np.ones(60))
METHODS: tuple[Method, ...] = ("REGRESSOR", "PRIOR")
DRAWN = {method: curves(ARTIFACT, SOME, method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_every_published_latency_grows_with_concurrency(method: Method) -> None:
    tpot, mean, above_median, tail = np.moveaxis(DRAWN[method].values, 2, 0)
    median = mean - above_median
    for curve in (tpot, mean, median, median + tail):
        assert np.diff(curve, axis=1).min() >= -1e-12


def test_the_median_is_below_the_mean_and_the_tail() -> None:
    values = DRAWN["REGRESSOR"].values
    assert values.shape == (60, len(GRID), len(FIELDS))
    assert values[:, :, 2:].min() >= 0.0


def test_powers_of_two_are_exact_and_logs_are_linear_between() -> None:
    drawn = Curves(np.linspace(0.0, 7.0, 48).reshape(1, 12, 4), np.zeros(1, int), np.zeros(1, bool))
    rows = np.zeros(4, dtype=np.int64)
    found = drawn.at(rows, np.asarray([1.0, 2.0, 2.0**1.25, 2048.0]))
    values = drawn.values[0]
    assert found[0].tolist() == values[0].tolist()
    assert found[1].tolist() == values[1].tolist()
    assert found[2] == pytest.approx(0.75 * values[1] + 0.25 * values[2])
    assert found[3].tolist() == values[11].tolist()


def test_loads_beyond_the_grid_are_its_ends() -> None:
    rows = np.zeros(4, dtype=np.int64)
    low, one, high, most = DRAWN["PRIOR"].at(rows, np.asarray([0.0, 1.0, 1e9, 2048.0]))
    assert low.tolist() == one.tolist()
    assert high.tolist() == most.tolist()


def test_the_batch_of_the_points_plays_no_part() -> None:
    again = curves(ARTIFACT, replace(SOME, batch=SOME.batch * 3), "REGRESSOR")
    assert again.values.tolist() == DRAWN["REGRESSOR"].values.tolist()
    assert again.outside.tolist() == DRAWN["REGRESSOR"].outside.tolist()


def test_each_curve_is_drawn_for_itself() -> None:
    for index in (0, 17, 59):
        alone = curves(ARTIFACT, SOME.take(np.asarray([index])), "REGRESSOR")
        assert alone.values[0].tolist() == DRAWN["REGRESSOR"].values[index].tolist()


def test_the_prior_asks_no_regressor() -> None:
    target = ARTIFACT.targets["tpot"]
    bare = replace(ARTIFACT, targets={
        name: replace(one, ensemble=replace(one.ensemble, boosters={}))
        for name, one in ARTIFACT.targets.items()
    })  # fmt: skip
    found = curves(bare, SOME, "PRIOR")
    assert found.values.tolist() == DRAWN["PRIOR"].values.tolist()
    on_grid = replace(SOME, batch=np.full(60, 16.0), chunk=np.full(60, DEFAULT_CHUNK))
    lower = target.ensemble.calibrations["step"].log_seconds(replace(on_grid, chunk=SOME.chunk))
    assert np.all(found.values[:, 4, 0] >= lower - 1e-12)
    with pytest.raises(KeyError):
        curves(bare, SOME, "REGRESSOR")


def test_the_chunk_moves_a_curve_by_what_physics_says() -> None:
    def at(chunk: float, method: Method) -> Floats:
        some = points(LLAMA_70B, tp=8, input=8192, output=256, chunk=chunk)
        found: Floats = curves(ARTIFACT, some, method).values[0]
        return found

    usual, small = at(DEFAULT_CHUNK, "REGRESSOR"), at(512.0, "REGRESSOR")
    # One request alone: its prompt is read in 16 chunks.
    assert small[0, 1] > usual[0, 1]
    change = at(512.0, "PRIOR")[0, 1] - at(DEFAULT_CHUNK, "PRIOR")[0, 1]
    assert small[0, 1] - usual[0, 1] == pytest.approx(change)
    # A decode step carries fewer prompt tokens.
    assert at(512.0, "PRIOR")[9, 0] < at(DEFAULT_CHUNK, "PRIOR")[9, 0]


def test_shapes_of_the_training_data_are_inside() -> None:
    seen = points(LLAMA_70B, tp=8, input=1024, output=1024)
    drawn = curves(ARTIFACT, seen, "PRIOR")
    assert NOVELTIES[int(drawn.novelty[0])] == "seen family"
    assert not drawn.outside[0]
    assert curves(ARTIFACT, replace(seen, input=np.full(1, 64.0)), "PRIOR").outside[0]
    assert curves(ARTIFACT, replace(seen, pp=np.full(1, 2.0)), "PRIOR").outside[0]


def test_tails_see_loads_and_lengths_only() -> None:
    some = points(batch=[4, 64], input=256, output=128)
    table = tail_matrix(some, np.zeros(2))
    assert TAIL_FEATURES == ("batch", "input", "output", "load")
    assert table[:, :3] == pytest.approx(np.log([[np.e**2, 256, 128], [np.e**6, 256, 128]]))
