"""Sketches and statistics: their accuracy, and that parts add up to the whole."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry.errors import InvalidRequest
from foundry.serving.outcomes.domain import (
    ACCURACY,
    Load,
    Sketch,
    Statistics,
    configuration_digest,
    merge_statistics,
    revision_of,
)

POSITIVE = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=200)


def sketch(values: list[float]) -> Sketch:
    found = Sketch()
    for value in values:
        found.add(value)
    return found


@given(POSITIVE, st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_one_percent(values: list[float], q: float) -> None:
    exact = float(np.quantile(values, q, method="lower"))
    assert sketch(values).quantile(q) == pytest.approx(exact, rel=ACCURACY * 1.001)


@given(POSITIVE, st.integers(1, 7))
def test_any_split_over_replicas_is_the_same_window(values: list[float], parts: int) -> None:
    whole, sum_of_parts = sketch(values), Sketch()
    for number in range(parts):
        sum_of_parts.merge(sketch(values[number::parts]))
    assert (sum_of_parts.counts, sum_of_parts.n) == (whole.counts, whole.n)
    assert sum_of_parts.total == pytest.approx(whole.total)


def test_what_is_no_number_is_left_out() -> None:
    found = sketch([math.nan, math.inf, -1.0, 5.0, 0.0])
    assert (found.n, found.total) == (2, 5.0001)
    assert Sketch().quantile(0.5) is None
    assert Sketch().mean() is None


def measured(requests: int = 10, busy_s: float = 5.0) -> Statistics:
    found = Statistics(busy_s=busy_s, in_flight_s=requests * 1.0)
    for _ in range(requests):
        found.answered(100, 11, 0.2, 1.2)
    return found


def test_the_definitions_of_the_metrics() -> None:
    actual = measured().actual()
    assert actual["ttft_p50_ms"] == pytest.approx(200, rel=0.01)
    # (1,200 ms - 200 ms)/(11 tokens - 1).
    assert actual["tpot_ms"] == pytest.approx(100)
    assert actual["latency_p95_ms"] == pytest.approx(1200, rel=0.01)
    assert actual["throughput_tps"] == pytest.approx(110 / 5)
    assert measured().concurrency == 2.0


def test_an_answer_that_was_not_streamed_has_no_ttft() -> None:
    found = Statistics(busy_s=1.0)
    found.answered(10, 5, None, 1.0)
    found.answered(10, 1, 0.5, 0.5)
    assert (found.requests, found.n, found.tpot_ms.n) == (2, 1, 0)
    assert "tpot_ms" not in found.actual()


def test_statistics_survive_json() -> None:
    found = measured()
    again = Statistics.of_json(json.loads(json.dumps(found.to_json())))
    assert again == found


def test_replicas_are_busy_at_the_same_time() -> None:
    whole = merge_statistics([measured(10, 5.0), measured(30, 6.0)])
    assert (whole.requests, whole.busy_s, whole.in_flight_s) == (40, 6.0, 40.0)
    assert whole.concurrency == pytest.approx(40 / 6)
    assert merge_statistics([]).concurrency == 0.0


def test_the_load_of_a_window() -> None:
    load = Load.of(measured())
    assert load is not None
    assert load.concurrency == 2.0
    assert (load.input_mean, load.output_mean) == (100.0, 11.0)
    assert load.output_p95 == pytest.approx(11, rel=0.01)
    assert Load.of(Statistics()) is None


def test_errors_are_a_share_of_what_ended() -> None:
    found = measured(9)
    found.errors = 1
    assert found.error_share == pytest.approx(0.1)
    assert Statistics().error_share == 0.0


def test_the_revision_is_in_the_application_name() -> None:
    assert revision_of("engine-0a1b2c3d-r12") == 12
    for name in ("engine", "engine-r", "engine-rx", ""):
        with pytest.raises(InvalidRequest, match="is not the name of an engine"):
            revision_of(name)


def test_equal_configurations_have_one_digest() -> None:
    one = configuration_digest({"a": 1, "b": {"c": 2.5}})
    assert one == configuration_digest({"b": {"c": 2.5}, "a": 1})
    assert one != configuration_digest({"a": 2, "b": {"c": 2.5}})
    assert len(one) == 64
