"""Targets: which end of which interval, and how far it is missed."""

import math

import numpy as np
import pytest

from foundry.engines.budsim.prediction import Estimates, Predictions
from foundry.engines.budsim.request import Lengths, Targets, Workload
from foundry.engines.budsim.search.targets import (
    judge,
    latency,
    objectives,
    pessimistic,
    shortfall,
    ttft,
)

CLOSED = Workload(Lengths.of(1000), Lengths(200, 100, 400), users=8)
OPEN = Workload(Lengths.of(1000), Lengths.of(200), rate=2.0)


def _around(*points: float) -> Estimates:
    point = np.asarray(points)
    return Estimates(point * 0.5, point, point * 2.0)


PREDICTIONS = Predictions(
    ttft_p50_ms=_around(100, 50),
    ttft_p95_ms=_around(400, 50),
    tpot_ms=_around(10, 20),
    latency_p95_ms=_around(5000, 9000),
    throughput_tps=_around(1000, 500),
    cost_per_hour=np.array([4.0, 8.0]),
    cost_per_mtok=_around(1.0, 4.0),
    fits=np.array([True, True]),
    slots=np.array([64, 64]),
    utilization=np.array([0.7, 1.4]),
    novelty=np.zeros(2, dtype=np.int64),
    confidence=np.zeros(2, dtype=np.int64),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("max_ttft_ms", [800.0, 100.0]),
        ("max_tpot_ms", [20.0, 40.0]),
        ("max_latency_ms", [10000.0, 18000.0]),
        ("min_throughput_tps", [500.0, 250.0]),
        ("max_cost_per_hour", [4.0, 8.0]),
        ("max_cost_per_mtok", [2.0, 8.0]),
    ],
)
def test_latency_and_cost_are_judged_high_and_throughput_low(
    name: str, expected: list[float]
) -> None:
    assert pessimistic(PREDICTIONS, name, Targets(), CLOSED).tolist() == expected  # type: ignore[arg-type]


def test_p99_continues_the_log_normal_tail() -> None:
    """p50 100 ms and p95 400 ms: sigma = ln 4/1.645, so p99 = 100·exp(2.326·sigma)."""
    p99 = 100 * math.exp(2.3263478740408408 * math.log(4) / 1.6448536269514722)
    found = ttft(PREDICTIONS, "p99")
    assert found.point == pytest.approx([p99, 50.0])
    assert found.high == pytest.approx([2 * p99, 100.0])
    assert ttft(PREDICTIONS, "p50").point.tolist() == [100, 50]


def test_latency_percentiles() -> None:
    extra = ttft(PREDICTIONS, "p99").point - PREDICTIONS.ttft_p95_ms.point
    assert latency(PREDICTIONS, "p99", CLOSED).point == pytest.approx([5000 + extra[0], 9000])
    assert latency(PREDICTIONS, "p50", CLOSED).point.tolist() == [100 + 99 * 10, 50 + 99 * 20]
    assert latency(PREDICTIONS, "p95", CLOSED) is PREDICTIONS.latency_p95_ms


def test_violations_are_shares_of_the_limit_and_add_up() -> None:
    targets = Targets(max_ttft_ms=400, min_throughput_tps=1000, max_cost_per_hour=8)
    judgement = judge(PREDICTIONS, targets, CLOSED)
    assert judgement.violations["max_ttft_ms"].tolist() == [1.0, 0.0]
    assert judgement.violations["min_throughput_tps"].tolist() == [0.5, 0.75]
    assert judgement.violation().tolist() == [1.5, 0.75]
    assert judgement.violation("max_ttft_ms") == pytest.approx([0.5001, 0.75])


def test_only_open_workloads_can_be_overloaded() -> None:
    assert judge(PREDICTIONS, Targets(), CLOSED).violation().tolist() == [0.0, 0.0]
    assert judge(PREDICTIONS, Targets(), OPEN).violation() == pytest.approx([0.0, 1.0])


def test_infinite_predictions_are_ordered_behind_all_finite_ones() -> None:
    assert shortfall("max_ttft_ms", 1.0, np.array([math.inf, math.nan, 5.0])).tolist() == [
        1e6,
        1e6,
        4.0,
    ]


def test_objectives_are_minimised() -> None:
    assert objectives(PREDICTIONS).tolist() == [[1.0, 400.0, 0.001], [4.0, 50.0, 0.002]]
