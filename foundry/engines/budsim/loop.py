"""The closed loop: what deployments measured corrects what is predicted next.

A residual is ln(measured ÷ predicted without correction), so a correction that is already in use
does not hide what it corrects. Times are Unix seconds. Targets are named as in
`prediction.METRICS`.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from foundry.engines.budsim.configuration import Configurations, Floats
from foundry.engines.budsim.prediction import METRICS, Estimates
from foundry.engines.budsim.request import RUNTIMES

DAY_S = 86_400.0
HALF_LIFE_S = 30 * DAY_S
OTHER_VERSION_WEIGHT = 0.25
# Requests from which a window counts in full; with fewer than the second it does not count.
FULL_REQUESTS, LEAST_REQUESTS = 20, 5
MIN_WINDOWS = 3
# Only so many of the newest windows of a GPU and engine decide: a change of the machine is
# followed within days although the half-life is a month.
NEWEST_WINDOWS = 100

# Shrinkage n/(n + k). k = 5 is for windows that scatter; those that agree need fewer.
MAX_PRIOR_WINDOWS = 5.0
# Standard deviation of ln(measured ÷ predicted) between GPU and engine pairs, before correction.
_BETWEEN = 0.3
# What the scatter within one pair is taken for before it is seen, worth two windows.
_WITHIN, _WITHIN_WINDOWS = 0.3, 2.0
_CLIP, _LEAST_SCALE = 2.5, 0.05
_MAX_LOG_FACTOR = math.log(100.0)
MIN_CONFORMAL_WINDOWS = 10
_CONFIDENCE = 0.9
_LEAST_WIDTH = 0.01
_SPREADS = (0.05, 10.0)


@dataclass(frozen=True, slots=True)
class Window:
    """One endpoint over one span of time, predicted for the load that it really had.

    Attributes:
        n: requests that were measured.
        predicted: target → low, point and high, as they were shown.
        actual: target → what was measured.
        applied: target → factor and spread of the correction that `predicted` contains already.
    """

    endpoint: str
    gpu: str
    engine: str
    engine_version: str
    n: int
    predicted: Mapping[str, tuple[float, float, float]]
    actual: Mapping[str, float]
    started_at: float
    applied: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def usable(self, target: str) -> bool:
        """Measured and predicted, by positive finite numbers, over enough requests."""
        low, point, high = self.predicted.get(target, (math.nan,) * 3)
        values = (low, point, high, self.actual.get(target, math.nan), *self._applied(target))
        return (
            self.n >= LEAST_REQUESTS
            and math.isfinite(self.started_at)
            and all(math.isfinite(value) and value > 0 for value in values)
            and low <= point <= high
        )

    def residual(self, target: str) -> float:
        """ln(measured ÷ predicted without correction); only where `usable`."""
        point = self.predicted[target][1] / self._applied(target)[0]
        return math.log(self.actual[target]) - math.log(point)

    def ape(self, target: str) -> float:
        """Error of the prediction as shown ÷ measured value; only where `usable`."""
        return abs(self.actual[target] - self.predicted[target][1]) / self.actual[target]

    def covered(self, target: str) -> bool:
        low, _, high = self.predicted[target]
        return low <= self.actual[target] <= high

    def width(self, target: str, above: bool) -> float:
        """ln(high ÷ point), or ln(point ÷ low), without correction; only where `usable`."""
        low, point, high = self.predicted[target]
        shown = math.log(high) - math.log(point) if above else math.log(point) - math.log(low)
        return max(shown / self._applied(target)[1], _LEAST_WIDTH)

    def _applied(self, target: str) -> tuple[float, float]:
        return self.applied.get(target, (1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Correction:
    """Of one target on one GPU and engine version.

    Attributes:
        factor: multiplies the point; in 0.01 to 100.
        spread: multiplies the interval's width in logs; 1 leaves it.
        windows: that it rests on, weighted by age and version.
        measured_at: when the newest window of this version began; Unix seconds.
    """

    factor: float = 1.0
    spread: float = 1.0
    windows: float = 0.0
    measured_at: float = 0.0

    def apply(self, estimates: Estimates) -> Estimates:
        return corrected(estimates, self.factor, self.spread)


def corrected(estimates: Estimates, factor: float | Floats, spread: float | Floats) -> Estimates:
    """The estimates with moved points and rescaled intervals.

    A low end of 0 and an infinite high end stay what they are.
    """
    point = estimates.point * factor
    with np.errstate(all="ignore"):
        low = point * np.power(estimates.low / estimates.point, spread)
        high = point * np.power(estimates.high / estimates.point, spread)
    return Estimates(_kept(low, estimates.low), point, _kept(high, estimates.high))


NO_CORRECTION = Correction()
Cell = tuple[str, str, str, str]
ANY_VERSION = ""


@dataclass(frozen=True, slots=True)
class Bias:
    """Corrections by (GPU, engine, engine version, target); ANY_VERSION is the fallback."""

    cells: Mapping[Cell, Correction] = field(default_factory=dict)

    def correction(self, gpu: str, engine: str, version: str | None, target: str) -> Correction:
        """Of that version, else of the other versions together, else none.

        Args:
            version: None: the one that was measured last, which is what runs here.
        """
        own = self._newest(gpu, engine, target) if version is None else None
        own = own or self.cells.get((gpu, engine, version or ANY_VERSION, target))
        return own or self.cells.get((gpu, engine, ANY_VERSION, target)) or NO_CORRECTION

    def _newest(self, gpu: str, engine: str, target: str) -> Correction | None:
        found = [
            correction
            for (its_gpu, its_engine, version, its_target), correction in self.cells.items()
            if (its_gpu, its_engine, its_target) == (gpu, engine, target) and version
        ]
        return max(found, key=lambda correction: correction.measured_at, default=None)

    def factor(self, gpu: str, engine: str, version: str | None, target: str) -> float:
        return self.correction(gpu, engine, version, target).factor

    def columns(
        self,
        configurations: Configurations,
        target: str,
        versions: Mapping[str, str] | None = None,
    ) -> tuple[Floats, Floats]:
        """Factor and spread of each configuration, for `corrected`; each of shape (N,).

        Args:
            versions: runtime → engine version; unset: the one that was measured last.
        """
        factor, spread = np.ones(len(configurations)), np.ones(len(configurations))
        pairs = np.stack([configurations.gpu, configurations.runtime])
        for gpu, runtime in np.unique(pairs, axis=1).T:
            engine = RUNTIMES[runtime]
            version = (versions or {}).get(engine)
            correction = self.correction(configurations.gpus[gpu], engine, version, target)
            rows = (configurations.gpu == gpu) & (configurations.runtime == runtime)
            factor[rows], spread[rows] = correction.factor, correction.spread
        return factor, spread

    @classmethod
    def of(cls, windows: Iterable[Window], now: float) -> "Bias":
        """Corrections that the windows support: from MIN_WINDOWS on, per target.

        The factor is exp(n/(n + k) · mean residual), n the weighted number of windows and k the
        prior's worth in windows: empirical Bayes with the scatter that the windows show, at most
        5. Residuals are clipped to 2.5 robust deviations around their median before the mean, so
        one absurd window moves the factor by no more than that.
        """
        pairs: dict[tuple[str, str], list[Window]] = {}
        for window in windows:
            pairs.setdefault((window.gpu, window.engine), []).append(window)
        cells: dict[Cell, Correction] = {}
        for (gpu, engine), members in pairs.items():
            versions = {window.engine_version for window in members} | {ANY_VERSION}
            for target in METRICS:
                found = [window for window in members if window.usable(target)]
                for version in versions:
                    correction = _correction(found, version, target, now)
                    if correction is not None:
                        cells[gpu, engine, version, target] = correction
        return cls(cells)


def weights(windows: Sequence[Window], version: str, now: float) -> Floats:
    """What each window counts for a fit of this engine version; in [0, 1], shape (N,).

    Half-life 30 days; other engine versions a quarter; a window dated later than `now` is new.
    """
    ages = np.array([max(now - window.started_at, 0.0) for window in windows])
    same = np.array([window.engine_version == version for window in windows], dtype=bool)
    full = np.array([min(window.n / FULL_REQUESTS, 1.0) for window in windows])
    aged: Floats = 0.5 ** (ages / HALF_LIFE_S)
    counted: Floats = aged * np.where(same, 1.0, OTHER_VERSION_WEIGHT) * full
    return counted


def _correction(
    windows: Sequence[Window], version: str, target: str, now: float
) -> Correction | None:
    own = [window for window in windows if window.engine_version == version]
    others = [window for window in windows if window.engine_version != version]
    chosen = (_newest(own) + _newest(others))[:NEWEST_WINDOWS]
    if len(chosen) < MIN_WINDOWS:
        return None
    weight = weights(chosen, version, now)
    total = float(weight.sum())
    if total <= 0:
        return None
    residuals = np.array([window.residual(target) for window in chosen])
    log_factor, clipped = _shrunk_mean(residuals, weight)
    if len(own) >= MIN_CONFORMAL_WINDOWS:
        spread = _spread(_newest(own), residuals[: len(own)], target, log_factor)
    else:
        # A few windows, or those of other versions, may widen an interval; they never narrow it.
        spread = max(_spread(chosen, clipped, target, log_factor), 1.0)
    measured_at = max(window.started_at for window in own or chosen)
    return Correction(math.exp(log_factor), spread, total, measured_at)


def _newest(windows: Sequence[Window]) -> list[Window]:
    return sorted(windows, key=lambda window: -window.started_at)[:NEWEST_WINDOWS]


def _shrunk_mean(residuals: Floats, weight: Floats) -> tuple[float, Floats]:
    """The logarithm of the factor, and the residuals without their outliers."""
    centre = _weighted_median(residuals, weight)
    scale = max(1.4826 * _weighted_median(np.abs(residuals - centre), weight), _LEAST_SCALE)
    clipped = np.clip(residuals, centre - _CLIP * scale, centre + _CLIP * scale)
    n = float(weight.sum())
    mean = float(weight @ clipped) / n
    squares = float(weight @ (clipped - mean) ** 2)
    degrees = _WITHIN_WINDOWS + max(n - 1.0, 0.0)
    within = (_WITHIN_WINDOWS * _WITHIN**2 + squares) / degrees
    k = min(within / _BETWEEN**2, MAX_PRIOR_WINDOWS)
    return min(max(n / (n + k) * mean, -_MAX_LOG_FACTOR), _MAX_LOG_FACTOR), clipped


def _spread(windows: Sequence[Window], residuals: Floats, target: str, log_factor: float) -> float:
    """Scale of the interval that would have held 90 % of these windows (split conformal).

    Each error is divided by the uncorrected width on its side. Of fewer than ten: all of them.
    """
    n = len(windows)
    # Each window had a part in the factor; without it, its error would be this much larger.
    errors = (residuals - log_factor) * n / (n - 1)
    scores = np.array(
        [
            abs(error) / window.width(target, error > 0)
            for window, error in zip(windows, errors, strict=True)
        ]
    )
    rank = min(math.ceil((n + 1) * _CONFIDENCE), n)
    return float(np.clip(np.sort(scores)[rank - 1], *_SPREADS))


def _weighted_median(values: Floats, weight: Floats) -> float:
    """The mean of the two middle values where the weight splits evenly between them."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weight[order])
    half, last = cumulative[-1] / 2, len(values) - 1
    lower = min(int(np.searchsorted(cumulative, half * (1 - 1e-9))), last)
    upper = min(int(np.searchsorted(cumulative, half * (1 + 1e-9))), last)
    return float(values[order[lower]] + values[order[upper]]) / 2


def _kept(ends: Floats, before: Floats) -> Floats:
    return np.where((before > 0) & np.isfinite(before), ends, before)


STALE_APE, FRESH_APE = 0.30, 0.20
STALE_COVERAGE, FRESH_COVERAGE = 0.80, 0.85
COVERAGE_WINDOWS, FRESH_WINDOWS = 100, 30
_HOUR_S = 3600.0
_JUDGED = ("ttft_p50_ms", "tpot_ms")


@dataclass(frozen=True, slots=True)
class Staleness:
    """Attributes:
    median_ape: of the newest hour, the worse of TTFT and TPOT; None: nothing was measured.
    coverage: share of the newest windows' intervals that held; None: nothing was measured.
    reason: why the alarm is on; empty while it is off.
    """

    stale: bool
    median_ape: float | None
    coverage: float | None
    reason: str


def staleness(windows: Iterable[Window]) -> Staleness:
    """The alarm PredictionStale after these windows of one GPU and engine version.

    On: the rolling median error (windows of the last hour) stays above 30 % for an hour, or less
    than 80 % of 100 windows' intervals held. Off again: the rolling median is at most 20 %, or
    85 % of the newest 30 hold; then the count of 100 starts anew.
    """
    watch = _Watch()
    for window in sorted(windows, key=_time):
        targets = [target for target in _JUDGED if window.usable(target)]
        if targets:
            watch.see(window, targets)
    return Staleness(watch.reason != "", watch.median_ape, watch.coverage, watch.reason)


def _time(window: Window) -> float:
    return window.started_at if math.isfinite(window.started_at) else 0.0


class _Watch:
    """The alarm's state while windows pass in order of time."""

    def __init__(self) -> None:
        self.reason = ""
        self.median_ape: float | None = None
        self._recent: deque[tuple[float, Mapping[str, float]]] = deque()
        self._covered: deque[float] = deque(maxlen=COVERAGE_WINDOWS)
        self._above_since: float | None = None
        self._by_error = False

    @property
    def coverage(self) -> float | None:
        return sum(self._covered) / len(self._covered) if self._covered else None

    def see(self, window: Window, targets: Sequence[str]) -> None:
        self._recent.append((window.started_at, {name: window.ape(name) for name in targets}))
        while self._recent[0][0] <= window.started_at - _HOUR_S:
            self._recent.popleft()
        self._covered.append(sum(window.covered(name) for name in targets) / len(targets))
        self.median_ape = max(
            float(np.median(errors))
            for name in _JUDGED
            if (errors := [found[name] for _, found in self._recent if name in found])
        )
        if self.reason:
            self._clear()
        else:
            self._raise(window.started_at)

    def _raise(self, now: float) -> None:
        if self.median_ape is None or self.median_ape <= STALE_APE:
            self._above_since = None
        elif self._above_since is None:
            self._above_since = now
        elif now - self._above_since >= _HOUR_S:
            self._by_error = True
            self.reason = (
                f"the median error has been above {STALE_APE:.0%} for an hour: "
                f"{self.median_ape:.0%}"
            )
            return
        coverage = self.coverage
        full = len(self._covered) == COVERAGE_WINDOWS
        if full and coverage is not None and coverage < STALE_COVERAGE:
            self._by_error = False
            self.reason = f"only {coverage:.0%} of the last 100 windows lay in their intervals"

    def _clear(self) -> None:
        newest = list(self._covered)[-FRESH_WINDOWS:]
        held = sum(newest) / len(newest) >= FRESH_COVERAGE
        accurate = self.median_ape is not None and self.median_ape <= FRESH_APE
        if accurate if self._by_error else held:
            self.reason = ""
            self._above_since = None
            self._covered = deque(newest, maxlen=COVERAGE_WINDOWS)
