"""A deployment that corrects itself, window after window, without a cluster."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from foundry.engines.budsim.configuration import Floats
from foundry.engines.budsim.loop import Bias, Window
from foundry.engines.budsim.prediction import Estimates

WINDOW_S = 900.0
GPU, ENGINE, VERSION, ENDPOINT = "cpu", "vllm", "0.29.0", "e"
TARGETS = ("ttft_p50_ms", "tpot_ms")
_TRUE_MS = {"ttft_p50_ms": 180.0, "tpot_ms": 40.0}


@dataclass(frozen=True)
class Site:
    """How far predictions are from the truth here.

    Attributes:
        bias: truth ÷ prior, on average.
        model_error: standard deviation in logs of the prior between loads.
        noise: of one window's measurement.
        width: ln(high ÷ point) of the intervals that the prior shows.
    """

    bias: float = 1.4
    model_error: float = 0.06
    noise: float = 0.03
    width: float = 0.15


def _column(value: float) -> Floats:
    return np.array([value])


def shown(prior: float, width: float, bias: Bias, target: str) -> tuple[float, float, float]:
    """The interval that a user sees: the prior's, corrected."""
    spread = math.exp(width)
    correction = bias.correction(GPU, ENGINE, VERSION, target)
    found = correction.apply(
        Estimates(_column(prior / spread), _column(prior), _column(prior * spread))
    )
    ends = found.at(0)
    return ends.low, ends.point, ends.high


def run(
    site: Site,
    windows: int,
    seed: int,
    spoil: Callable[[int, Window], Window] = lambda _, window: window,
) -> tuple[list[Window], list[Window]]:
    """The windows as recorded (after `spoil`) and as they truly were."""
    random = np.random.default_rng(seed)
    recorded: list[Window] = []
    true: list[Window] = []
    for index in range(windows):
        now = index * WINDOW_S
        bias = Bias.of(recorded, now)
        predicted, actual, applied = {}, {}, {}
        for target in TARGETS:
            load = math.exp(random.uniform(-0.5, 0.5))
            truth = _TRUE_MS[target] * load
            prior = truth / site.bias * math.exp(random.normal(0, site.model_error))
            predicted[target] = shown(prior, site.width, bias, target)
            correction = bias.correction(GPU, ENGINE, VERSION, target)
            applied[target] = (correction.factor, correction.spread)
            actual[target] = truth * math.exp(random.normal(0, site.noise))
        window = Window(ENDPOINT, GPU, ENGINE, VERSION, 200, predicted, actual, now, applied)
        true.append(window)
        recorded.append(spoil(index, replace(window)))
    return recorded, true


def closed_loop(site: Site = Site(), seeds: int = 20) -> dict[str, float]:
    """How fast a biased prior is corrected, over many simulated deployments.

    Returns:
        windows_to_10pct: observed windows after which the median error over deployments and
            targets is at most 10 % and stays so; median_ape_after_30: that error, in %, of the
            20 windows that follow the first 30.
    """
    errors = np.array(
        [
            [[window.ape(target) for target in TARGETS] for window in run(site, 50, seed)[1]]
            for seed in range(seeds)
        ]
    )
    medians = np.median(errors, axis=(0, 2))
    above = np.flatnonzero(medians > 0.10)
    return {
        "windows_to_10pct": int(above[-1]) + 1 if len(above) else 0,
        "median_ape_after_30": float(np.median(errors[:, 30:])) * 100,
    }
