"""Targets as constraints on the pessimistic end of each interval.

Deb's rule (2000) needs one number per configuration: the sum of normalised violations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foundry.engines.budsim.configuration import Bools, Floats
from foundry.engines.budsim.prediction import Estimates, Predictions
from foundry.engines.budsim.request import Targets, Workload

Name = Literal[
    "max_ttft_ms",
    "max_tpot_ms",
    "max_latency_ms",
    "min_throughput_tps",
    "max_cost_per_hour",
    "max_cost_per_mtok",
]
NAMES: tuple[Name, ...] = (
    "max_ttft_ms",
    "max_tpot_ms",
    "max_latency_ms",
    "min_throughput_tps",
    "max_cost_per_hour",
    "max_cost_per_mtok",
)

# The specification's target utilisation; queues of open workloads grow steeply beyond it.
TARGET_UTILIZATION = 0.7
# Standard normal quantile of p99 over that of p95, less one: a log-normal tail.
_TAIL = 2.3263478740408408 / 1.6448536269514722 - 1.0
# Violations are summed, so none may be infinite.
_WORST = 1e6
_LITTLE = 1e-4


@dataclass(frozen=True, slots=True)
class Judgement:
    """How N predictions stand to the targets; columns of shape (N,).

    Attributes:
        bounds: the pessimistic value of each target's metric.
        violations: of each target, as a share of its limit; 0 where it is met.
        overload: utilization above its target, as a share; open workloads only.
        usable: every objective is finite and the configuration fits.
    """

    bounds: Mapping[Name, Floats]
    violations: Mapping[Name, Floats]
    overload: Floats
    usable: Bools

    @property
    def unstable(self) -> Floats:
        """Violation of what no target can relax."""
        unusable: Floats = np.where(self.usable, 0.0, _WORST)
        return self.overload + unusable

    def violation(self, yielding: Name | None = None) -> Floats:
        """Sum of all; 0: feasible. That of the yielding target counts little beside the others."""
        total = self.unstable
        for name, column in self.violations.items():
            total = total + (column * _LITTLE if name == yielding else column)
        return total


def limits(targets: Targets) -> dict[Name, float]:
    """The targets that are set."""
    values = {name: getattr(targets, name) for name in NAMES}
    return {name: float(value) for name, value in values.items() if value is not None}


def judge(predictions: Predictions, targets: Targets, workload: Workload) -> Judgement:
    """Bounds, violations and feasibility of N predictions."""
    bounds: dict[Name, Floats] = {}
    violations: dict[Name, Floats] = {}
    for name, limit in limits(targets).items():
        bound = pessimistic(predictions, name, targets, workload)
        bounds[name] = bound
        violations[name] = shortfall(name, limit, bound)
    excess = predictions.utilization / TARGET_UTILIZATION - 1.0
    crowded = np.nan_to_num(np.clip(excess, 0.0, _WORST), nan=_WORST)
    return Judgement(
        bounds=bounds,
        violations=violations,
        overload=crowded if workload.rate is not None else np.zeros(len(predictions)),
        usable=predictions.fits & np.isfinite(objectives(predictions)).all(axis=1),
    )


def shortfall(name: Name, limit: float, bound: Floats) -> Floats:
    """How far a target is missed, as a share of its limit; 0 where it is met."""
    over = limit - bound if name == "min_throughput_tps" else bound - limit
    return np.nan_to_num(np.clip(over / limit, 0.0, _WORST), nan=_WORST)


def objectives(predictions: Predictions) -> Floats:
    """$/10⁶ tokens, TTFT p95 in ms and s per output token of all replicas: minimised; (N, 3)."""
    with np.errstate(divide="ignore"):
        return np.column_stack(
            [
                predictions.cost_per_mtok.point,
                predictions.ttft_p95_ms.point,
                1.0 / predictions.throughput_tps.point,
            ]
        )


def pessimistic(
    predictions: Predictions, name: Name, targets: Targets, workload: Workload
) -> Floats:
    """The end of the interval on which a target is judged, at the targets' percentile; (N,)."""
    match name:
        case "max_ttft_ms":
            return ttft(predictions, targets.percentile).high
        case "max_tpot_ms":
            # Mean of a request's gaps; its spread over requests is not modelled.
            return predictions.tpot_ms.high
        case "max_latency_ms":
            return latency(predictions, targets.percentile, workload).high
        case "min_throughput_tps":
            return predictions.throughput_tps.low
        case "max_cost_per_hour":
            return predictions.cost_per_hour
        case "max_cost_per_mtok":
            return predictions.cost_per_mtok.high


def ttft(predictions: Predictions, percentile: str) -> Estimates:
    """TTFT at a percentile, ms. p99 continues the log-normal through p50 and p95."""
    if percentile == "p50":
        return predictions.ttft_p50_ms
    if percentile == "p95":
        return predictions.ttft_p95_ms
    tail = _p99_over_p95(predictions)
    p95 = predictions.ttft_p95_ms
    return Estimates(p95.low * tail, p95.point * tail, p95.high * tail)


def _p99_over_p95(predictions: Predictions) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = predictions.ttft_p95_ms.point / predictions.ttft_p50_ms.point
    return np.where(np.isfinite(ratio), np.maximum(ratio, 1.0), 1.0) ** _TAIL


def latency(predictions: Predictions, percentile: str, workload: Workload) -> Estimates:
    """End-to-end latency at a percentile, ms. p50: the median TTFT and output length; p99: p95
    plus what the first token is later."""
    p95 = predictions.latency_p95_ms
    if percentile == "p95":
        return p95
    if percentile == "p50":
        gaps = max(workload.output.p50 - 1.0, 0.0)
        first, gap = predictions.ttft_p50_ms, predictions.tpot_ms
        ends = [
            np.minimum(getattr(first, end) + gaps * getattr(gap, end), getattr(p95, end))
            for end in ("low", "point", "high")
        ]
        return Estimates(ends[0], ends[1], ends[2])
    extra = _p99_over_p95(predictions) - 1.0
    first = predictions.ttft_p95_ms
    # An endless queue has no tail to add: infinite + 0 · infinite.
    with np.errstate(invalid="ignore"):
        ends = [
            np.where(np.isinf(whole), whole, whole + part * extra)
            for whole, part in (
                (p95.low, first.low),
                (p95.point, first.point),
                (p95.high, first.high),
            )
        ]
    return Estimates(ends[0], ends[1], ends[2])
