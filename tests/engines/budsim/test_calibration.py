"""Constants of the calibrated prior: forms, derivatives, and fits of known truth."""

from dataclasses import replace

import numpy as np
import pytest

from foundry.engines.budsim import calibration
from foundry.engines.budsim.artifact import load
from foundry.engines.budsim.calibration import Calibration, Kind, fit, step_parts, token_parts
from foundry.engines.budsim.physics import Step, prior
from foundry.engines.budsim.points import ENGINES
from tests.engines.budsim.serving_cases import points, random_points

TARGETS = load().targets
STEP = TARGETS["tpot"].ensemble.calibrations["step"]
FIRST_TOKEN = TARGETS["ttft"].ensemble.calibrations["first_token"]
DATED = TARGETS["ttft"].ensemble.calibrations["dated_first_token"]


def test_the_parts_of_a_step_sum_to_it() -> None:
    some = random_points(300)
    parts = step_parts(some, prior(some).mixed, STEP.constants)
    factor = parts.pop("factor")
    assert set(parts) == {"weights", "kv", "compute", "comm", "overhead"}
    total = np.sum(list(parts.values()), axis=0) * factor
    assert total == pytest.approx(np.exp(STEP.log_seconds(some)), rel=1e-12)
    assert min(float(part.min()) for part in parts.values()) >= 0.0


@pytest.mark.parametrize("found", [FIRST_TOKEN, DATED], ids=lambda one: str(one.kind))
def test_the_parts_of_a_first_token_sum_to_it(found: Calibration) -> None:
    some = random_points(300, seed=1)
    parts, factor = token_parts(some, None, found.constants)
    total = np.sum(list(parts.values()), axis=0) * factor
    assert total == pytest.approx(np.exp(found.log_seconds(some)), rel=1e-12)


@pytest.mark.parametrize("found", [FIRST_TOKEN, DATED], ids=lambda one: str(one.kind))
def test_the_jacobian_is_that_of_finite_differences(found: Calibration) -> None:
    some = random_points(40, seed=2)
    inputs = calibration._token_inputs(some, None)
    constants = {name: found.constants[name] for name in calibration._CONSTANTS[found.kind]}
    analytic = calibration._token_jacobian(inputs, constants)
    assert analytic.shape == (40, len(constants))
    width = 1e-6
    for column, name in enumerate(constants):
        up, down = (
            Calibration(found.kind, {**constants, name: constants[name] + sign * width})
            for sign in (1, -1)
        )
        slope = (up.log_seconds(some) - down.log_seconds(some)) / (2 * width)
        assert analytic[:, column] == pytest.approx(slope, abs=1e-7), name


@pytest.mark.parametrize("kind", ["step", "first_token", "dated_first_token", "static"])
def test_a_fit_finds_what_made_the_times(kind: Kind) -> None:
    """Constants are held near plausible ones, so the times come back, not every constant."""
    some = random_points(400, seed=3)
    start = {name: one.start for name, one in calibration._CONSTANTS[kind].items()}
    rng = np.random.default_rng(0)
    truth = {name: value + rng.normal(0, 0.2) for name, value in start.items()}
    wanted = Calibration(kind, truth).log_seconds(some)
    found = fit(kind, some, wanted)
    before = np.median(np.abs(Calibration(kind, start).log_seconds(some) - wanted))
    after = np.median(np.abs(found.log_seconds(some) - wanted))
    assert after < min(0.03, before / 3)
    assert list(found.constants) == list(start)


def test_a_fit_shrugs_off_a_few_wild_measurements() -> None:
    some = random_points(300, seed=4)
    truth = STEP.log_seconds(some)
    wild = truth.copy()
    wild[:15] += 3.0
    errors = np.abs(fit("step", some, wild).log_seconds(some) - truth)
    # A mean would be off by 5 % of 3.
    assert np.median(errors[15:]) < 0.06


def test_one_row_leaves_the_constants_plausible() -> None:
    some = points()
    found = fit("first_token", some, np.log([0.2]))
    starts = {name: one.start for name, one in calibration._CONSTANTS["first_token"].items()}
    moved = max(abs(value - starts[name]) for name, value in found.constants.items())
    assert moved < 1.5
    before = float(Calibration("first_token", starts).log_seconds(some)[0])
    assert before < found.log_seconds(some)[0] < np.log(0.2)


def test_constants_keep_five_decimals() -> None:
    some = random_points(50, seed=5)
    found = fit("step", some, STEP.log_seconds(some))
    assert all(value == round(value, 5) for value in found.constants.values())
    assert fit("step", some, STEP.log_seconds(some)) == found


def test_only_the_dated_form_knows_the_month() -> None:
    old, new = (points(engine=[0, 1, 2], month=month) for month in (27.0, 39.0))
    assert FIRST_TOKEN.log_seconds(old).tolist() == FIRST_TOKEN.log_seconds(new).tolist()
    years = [DATED.constants[f"shift.year.{name}"] for name in ENGINES[:3]]
    change = DATED.log_seconds(new) - DATED.log_seconds(old)
    assert change == pytest.approx(years)


def test_the_smooth_maximum_lies_between_maximum_and_sum() -> None:
    a, b = np.asarray([1.0, 2.0, 5.0, 0.0]), np.asarray([1.0, 7.0, 0.0, 0.0])
    for power in (1.5, 4.0, 30.0):
        found = calibration._smooth_maximum(a, b, power)
        assert np.all(found >= np.maximum(a, b))
        assert np.all(found <= a + b + 1e-29)
    assert calibration._smooth_maximum(a[:1], b[:1], 2.0)[0] == pytest.approx(2**0.5)


def test_typical_efficiencies_slow_a_step() -> None:
    one = np.ones(1)
    found = calibration.typical(Step(one, 0 * one, 0 * one, 0 * one))
    assert found[0] == pytest.approx(1.8)
    found = calibration.typical(Step(0 * one, one, one, one))
    assert found[0] == pytest.approx(1.1 + 2.0 + 1.5)


def test_time_grows_as_the_hardware_slows() -> None:
    some = random_points(200, seed=6)
    slow = replace(some, bandwidth=some.bandwidth / 2, flops=some.flops / 2)
    for found in (STEP, FIRST_TOKEN, DATED):
        assert np.all(found.log_seconds(slow) > found.log_seconds(some))
