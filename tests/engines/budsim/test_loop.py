"""Corrections, the alarm and promotion, on windows whose truth is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.loop import (
    ANY_VERSION,
    DAY_S,
    HALF_LIFE_S,
    Bias,
    Correction,
    Window,
    corrected,
    staleness,
    weights,
)
from foundry.engines.budsim.prediction import Estimates
from tests.engines.budsim.loop_simulation import (
    ENGINE,
    GPU,
    TARGETS,
    VERSION,
    WINDOW_S,
    Site,
    closed_loop,
    run,
)

NOW = 1_800_000_000.0


def window(
    ratio: float,
    *,
    age_s: float = 0.0,
    version: str = VERSION,
    gpu: str = GPU,
    n: int = 200,
    width: float = 2.0,
    applied: tuple[float, float] = (1.0, 1.0),
) -> Window:
    """TPOT was predicted as 40 ms and measured as `ratio` times that."""
    return Window(
        endpoint="e",
        gpu=gpu,
        engine=ENGINE,
        engine_version=version,
        n=n,
        predicted={"tpot_ms": (40 / width, 40.0, 40 * width)},
        actual={"tpot_ms": 40 * ratio},
        started_at=NOW - age_s,
        applied={"tpot_ms": applied},
    )


def factor(windows: list[Window], version: str = VERSION) -> float:
    return Bias.of(windows, NOW).factor(GPU, ENGINE, version, "tpot_ms")


def test_the_factor_is_the_shrunk_geometric_mean() -> None:
    # Three windows that agree: s² = 2·0.3²/(2 + 2), k = s²/0.3² = 1/2, shrinkage 3/3.5.
    assert factor([window(1.7)] * 3) == pytest.approx(1.7 ** (3 / 3.5))
    # The geometric mean of x and 1/x is 1.
    assert factor([window(1.2), window(1.0), window(1 / 1.2)]) == pytest.approx(1.0)


def test_windows_that_scatter_count_as_five_at_most() -> None:
    wild = [window(math.exp(x)) for x in (-2.0, -1.0, 0.0, 3.0, 4.0, 5.0)]
    assert math.log(factor(wild)) == pytest.approx(6 / 11 * 1.5)


def test_two_windows_change_nothing() -> None:
    assert factor([window(1.7)] * 2) == 1.0


def test_a_correction_in_use_hides_no_bias() -> None:
    plain = factor([window(1.5)] * 4)
    shown = [replace(window(1.0, applied=(1.5, 1.0))) for _ in range(4)]
    assert factor(shown) == pytest.approx(plain)


def test_old_windows_and_other_versions_weigh_less() -> None:
    found = weights(
        [
            window(1.0),
            window(1.0, age_s=HALF_LIFE_S),
            window(1.0, version="0.28.0"),
            window(1.0, age_s=2 * HALF_LIFE_S, version="0.28.0"),
            window(1.0, n=10),
            window(1.0, age_s=-DAY_S),
        ],
        VERSION,
        NOW,
    )
    assert found.tolist() == pytest.approx([1.0, 0.5, 0.25, 0.0625, 0.5, 1.0])


def test_another_version_of_the_engine_is_a_weaker_hint() -> None:
    windows = [window(1.7)] * 8
    own, other = factor(windows), factor(windows, "0.30.0")
    assert 1.0 < other < own
    # Weight 8·0.25 = 2: s² = 2·0.09/(2 + 1), k = 2/3.
    assert other == pytest.approx(1.7 ** (2 / (2 + 2 / 3)))
    assert Bias.of(windows, NOW).factor("nvidia-t4-16gb", ENGINE, VERSION, "tpot_ms") == 1.0


def test_evidence_fades() -> None:
    old = [window(1.7, age_s=12 * HALF_LIFE_S)] * 20
    assert factor(old) == pytest.approx(1.0, abs=0.02)


def test_an_outlier_of_a_thousand_moves_little() -> None:
    clean = factor([window(1.7)] * 9)
    assert factor([*[window(1.7)] * 9, window(1700.0)]) == pytest.approx(clean, rel=0.03)
    assert factor([window(1.7), window(1.7), window(1700.0)]) == pytest.approx(1.7, rel=0.1)


def test_a_change_of_the_machine_is_followed_within_days() -> None:
    before = [window(1.0, age_s=20 * DAY_S + i * WINDOW_S) for i in range(1000)]
    after = [window(1.7, age_s=i * WINDOW_S) for i in range(96)]
    assert factor([*before, *after]) == pytest.approx(1.7, rel=0.03)


@pytest.mark.parametrize(
    "bad",
    [
        window(math.nan),
        window(math.inf),
        window(0.0),
        window(-1.0),
        window(1000.0, n=1),
        window(1000.0, n=-3),
        window(1000.0, age_s=math.nan),
        window(1000.0, width=math.inf),
        window(1000.0, width=0.5),
        window(1000.0, applied=(0.0, 1.0)),
        replace(window(1000.0), predicted={}),
        replace(window(1000.0), actual={}),
        replace(window(1.0), predicted={"tpot_ms": (0.0, 0.0, 0.0)}),
    ],
)
def test_a_broken_window_is_as_good_as_none(bad: Window) -> None:
    good = [window(1.7)] * 5
    assert Bias.of([*good, bad, bad], NOW) == Bias.of(good, NOW)
    calm = [replace(window(1.1), started_at=NOW + i * WINDOW_S) for i in range(8)]
    assert staleness([*calm, bad]) == staleness(calm)


def test_extreme_numbers_stay_finite() -> None:
    windows = [window(ratio) for ratio in (1e300, 1e-300, 1e300, 1e-300)] + [window(1e300)] * 20
    correction = Bias.of(windows, NOW).correction(GPU, ENGINE, VERSION, "tpot_ms")
    assert correction.factor == pytest.approx(100)
    assert correction.spread == 10.0


def test_a_clock_set_back_loses_no_window() -> None:
    ahead = [window(1.7, age_s=-3600.0 * i) for i in range(5)]
    assert factor(ahead) == pytest.approx(factor([window(1.7)] * 5))


def test_the_interval_takes_the_width_that_held_the_windows() -> None:
    # Errors of ±ln 1.2 in turn, intervals of ±ln 2: the factor stays 1, the scale is their ratio
    # times n/(n - 1).
    windows = [window(1.2 if i % 2 else 1 / 1.2) for i in range(20)]
    correction = Bias.of(windows, NOW).correction(GPU, ENGINE, VERSION, "tpot_ms")
    assert correction.factor == pytest.approx(1.0)
    assert correction.spread == pytest.approx(math.log(1.2) / math.log(2) * 20 / 19)
    narrowed = [
        replace(
            w,
            applied={"tpot_ms": (1.0, 0.5)},
            predicted={"tpot_ms": (40 / math.sqrt(2), 40.0, 40 * math.sqrt(2))},
        )
        for w in windows
    ]
    again = Bias.of(narrowed, NOW).correction(GPU, ENGINE, VERSION, "tpot_ms")
    assert again.spread == pytest.approx(correction.spread)


def test_a_few_windows_widen_an_interval_until_it_holds_them() -> None:
    # The error depends on the load: 1.5, 2.25 and 3.375 times.
    windows = [window(1.5), window(1.5**2), window(1.5**3)]
    correction = Bias.of(windows, NOW).correction(GPU, ENGINE, VERSION, "tpot_ms")
    assert correction.factor == pytest.approx(1.5**2, rel=0.25)
    assert correction.spread > 1.0
    found = corrected(
        Estimates(np.array([20.0]), np.array([40.0]), np.array([80.0])),
        correction.factor,
        correction.spread,
    ).at(0)
    assert all(found.covers(40 * 1.5**power) for power in (1, 2, 3))
    # They never narrow it.
    alike = Bias.of([window(1.5)] * 3, NOW).correction(GPU, ENGINE, VERSION, "tpot_ms")
    assert alike.spread == 1.0


def test_only_a_version_of_its_own_narrows_an_interval() -> None:
    windows = [window(1.0 + 0.001 * (i % 3), version="0.28.0") for i in range(20)]
    bias = Bias.of(windows, NOW)
    assert bias.correction(GPU, ENGINE, "0.28.0", "tpot_ms").spread < 0.1
    assert bias.correction(GPU, ENGINE, VERSION, "tpot_ms").spread == 1.0


def test_corrected_intervals_hold_nine_of_ten() -> None:
    for model_error in (0.02, 0.2):
        held = [
            found.covered(target)
            for seed in range(6)
            for found in run(Site(bias=1.7, model_error=model_error), 120, seed)[1][20:]
            for target in TARGETS
        ]
        assert 0.86 <= float(np.mean(held)) <= 0.95


@pytest.mark.parametrize("bias", [1.4, 1 / 1.4, 0.6, 1.7])
def test_a_biased_prior_is_right_within_three_windows(bias: float) -> None:
    found = closed_loop(Site(bias=bias), seeds=10)
    assert found["windows_to_10pct"] <= 3
    assert found["median_ape_after_30"] <= 10.0


def test_a_tenfold_bias_is_right_within_thirty_windows() -> None:
    found = closed_loop(Site(bias=10.0), seeds=5)
    assert found["windows_to_10pct"] <= 30
    assert found["median_ape_after_30"] <= 10.0


def test_poisoned_windows_do_not_stop_the_correction() -> None:
    def spoil(index: int, found: Window) -> Window:
        ratio = (math.nan, 1000.0, 0.0)[index // 5 % 3] if index % 5 == 2 else 1.0
        return replace(found, actual={key: v * ratio for key, v in found.actual.items()})

    _, true = run(Site(bias=1.7), 60, 7, spoil)
    errors = [found.ape(target) for found in true[30:] for target in TARGETS]
    assert float(np.median(errors)) <= 0.10


def test_columns_follow_gpu_and_runtime() -> None:
    bias = Bias(
        {
            (GPU, ENGINE, VERSION, "tpot_ms"): Correction(1.5, 0.5, 9, NOW),
            (GPU, ENGINE, "0.28.0", "tpot_ms"): Correction(1.4, 0.5, 9, NOW - 1),
            (GPU, ENGINE, ANY_VERSION, "tpot_ms"): Correction(1.2, 1.0, 3),
        }
    )
    rows = Configurations.of(
        [Configuration(GPU), Configuration("other"), Configuration(GPU, "sglang")]
    )
    factors, spreads = bias.columns(rows, "tpot_ms", {ENGINE: VERSION})
    assert factors.tolist() == [1.5, 1.0, 1.0]
    assert spreads.tolist() == [0.5, 1.0, 1.0]
    # Which version runs is not said: the one that was measured last.
    assert bias.columns(rows, "tpot_ms")[0].tolist() == [1.5, 1.0, 1.0]
    assert bias.columns(rows, "tpot_ms", {ENGINE: "0.31.0"})[0].tolist() == [1.2, 1.0, 1.0]


def test_corrected_estimates_keep_open_ends() -> None:
    estimates = Estimates(
        np.array([10.0, 0.0, 20.0]),
        np.array([20.0, 20.0, np.inf]),
        np.array([40.0, np.inf, np.inf]),
    )
    found = corrected(estimates, 2.0, 0.5)
    assert found.point.tolist() == [40.0, 40.0, math.inf]
    assert found.low[0] == pytest.approx(40 / math.sqrt(2))
    assert found.high[0] == pytest.approx(40 * math.sqrt(2))
    assert (found.low[1], found.high[1]) == (0.0, math.inf)


def series(ratios: list[float], width: float = 2.0) -> list[Window]:
    return [
        replace(window(ratio, width=width), started_at=NOW + i * WINDOW_S)
        for i, ratio in enumerate(ratios)
    ]


def test_the_alarm_fires_after_an_hour_of_error_and_clears() -> None:
    calm = [1.0] * 8
    assert not staleness(series([*calm, 2.0, 2.0, 2.0])).stale
    raised = staleness(series([*calm, *[2.0] * 8]))
    assert raised.stale
    assert raised.median_ape == pytest.approx(0.5)
    assert raised.reason == "the median error has been above 30 % for an hour: 50 %".replace(
        " %", "%"
    )
    # Between 20 % and 30 % it stays on: no flapping.
    assert staleness(series([*calm, *[2.0] * 8, *[1.33] * 8])).stale
    cleared = staleness(series([*calm, *[2.0] * 8, *[1.33] * 8, *[1.1] * 4]))
    assert not cleared.stale
    assert cleared.median_ape == pytest.approx(0.1 / 1.1)


def test_one_absurd_window_raises_nothing() -> None:
    assert not staleness(series([1.0] * 6 + [1000.0] + [1.0] * 6)).stale


def test_the_alarm_fires_on_coverage_over_a_hundred_windows_and_clears() -> None:
    # Errors of 10 % against intervals of 5 %: accurate, and overconfident.
    missed, held = [1.1], [1.0]
    assert not staleness(series((missed * 3 + held * 7) * 9, width=1.05)).stale
    raised = staleness(series((missed * 3 + held * 7) * 11, width=1.05))
    assert raised.stale
    assert raised.coverage == pytest.approx(0.7)
    assert raised.reason == "only 70% of the last 100 windows lay in their intervals"
    assert not staleness(series((missed * 3 + held * 7) * 11 + held * 30, width=1.05)).stale
    assert not staleness(series((missed * 1 + held * 9) * 11, width=1.05)).stale


def test_nothing_measured_is_no_alarm() -> None:
    assert staleness([]) == staleness([window(math.nan)])
    assert staleness([]).median_ape is None
