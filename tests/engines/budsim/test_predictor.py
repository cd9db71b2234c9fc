"""Predictions: what must hold of every one of them, and what a change of the question changes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.artifact import load
from foundry.engines.budsim.calibration import Kind
from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.memory import memory_map
from foundry.engines.budsim.operating import points_of
from foundry.engines.budsim.prediction import METRICS, Estimates
from foundry.engines.budsim.predictor import Breakdown, Predictor
from foundry.engines.budsim.request import (
    KV_DTYPES,
    QUANTIZATIONS,
    RUNTIMES,
    Method,
    Workload,
)
from tests.engines.budsim.serving_cases import (
    CATALOGUE,
    MODELS,
    SHIPPED,
    arriving,
    ask,
    ask_one,
    assert_same,
    closed,
    rows,
)
from tests.fakes.models import LLAMA_8B, LLAMA_70B

H100, H200 = "nvidia-h100-80gb", "nvidia-h200-141gb"
METHODS: tuple[Method, ...] = ("REGRESSOR", "PRIOR")

specs = st.sampled_from(MODELS)
lengths = st.floats(16, 16000)
shapes = st.builds(
    Configuration,
    gpu=st.sampled_from(CATALOGUE.ids),
    runtime=st.sampled_from(RUNTIMES),
    tensor_parallel_size=st.sampled_from([1, 2, 4, 8, 16]),
    pipeline_parallel_size=st.sampled_from([1, 2]),
    replicas=st.integers(1, 8),
    max_num_seqs=st.sampled_from([8, 64, 512]),
    max_num_batched_tokens=st.sampled_from([512, 8192, 32768]),
    quantization=st.sampled_from(QUANTIZATIONS),
    kv_cache_dtype=st.sampled_from(KV_DTYPES),
)
several = settings(max_examples=30, deadline=None)


@several
@given(spec=specs, shape=shapes, input=lengths, output=lengths, method=st.sampled_from(METHODS))
def test_latencies_do_not_fall_as_users_come(
    spec: ModelSpec, shape: Configuration, input: float, output: float, method: Method
) -> None:
    found = [
        ask_one(spec, shape, closed(users, input, output), method=method)
        for users in (1, 2, 3, 7, 16, 45, 128, 300, 1024, 5000)
    ]
    for metric in ("ttft_p50_ms", "ttft_p95_ms", "tpot_ms", "latency_p95_ms"):
        points = np.asarray([getattr(one, metric).point for one in found])
        assert np.all(np.diff(points) >= -1e-9 * points[:-1]), metric


@several
@given(spec=specs, shape=shapes, input=lengths, output=lengths)
def test_latencies_do_not_fall_as_the_rate_rises(
    spec: ModelSpec, shape: Configuration, input: float, output: float
) -> None:
    found = [ask_one(spec, shape, arriving(0.01 * 3**n, input, output)) for n in range(10)]
    for metric in ("ttft_p50_ms", "ttft_p95_ms", "tpot_ms"):
        points = np.asarray([getattr(one, metric).point for one in found])
        finite = points[np.isfinite(points)]
        assert np.all(np.diff(finite) >= -1e-9 * finite[:-1]), metric
        assert np.isfinite(points).tolist() == sorted(np.isfinite(points), reverse=True)


@several
@given(
    spec=specs,
    shape=shapes,
    workload=st.one_of(
        st.builds(closed, st.floats(1, 3000), lengths, lengths, st.floats(0, 0.95)),
        st.builds(arriving, st.floats(0.01, 1000), lengths, lengths),
    ),
    method=st.sampled_from(METHODS),
    confidence=st.floats(0.5, 0.98),
)
def test_intervals_hold_their_point_and_widen_with_confidence(
    spec: ModelSpec, shape: Configuration, workload: Workload, method: Method, confidence: float
) -> None:
    narrow, wide = (
        ask(spec, shape, workload, method=method, confidence=level)
        for level in (confidence, confidence + 0.01)
    )
    for metric in (*METRICS, "cost_per_mtok"):
        one: Estimates = getattr(narrow, metric)
        two: Estimates = getattr(wide, metric)
        if np.isnan(one.point[0]):
            continue
        assert two.low[0] <= one.low[0] <= one.point[0] <= one.high[0] <= two.high[0], metric
        assert one.point[0] == two.point[0]
        assert one.low[0] > 0


def test_a_higher_confidence_is_strictly_wider() -> None:
    workload = closed(16)
    at = [ask_one(LLAMA_70B, Configuration(H200), workload, confidence=c) for c in (0.5, 0.9, 0.99)]
    highs = [one.ttft_p95_ms.high / one.ttft_p95_ms.point for one in at]
    assert 1.0 < highs[0] < highs[1] < highs[2]


@settings(max_examples=10, deadline=None)
@given(spec=specs, some=st.lists(shapes, min_size=2, max_size=12), users=st.floats(1, 2000))
def test_rows_are_independent_of_each_other(
    spec: ModelSpec, some: list[Configuration], users: float
) -> None:
    together = ask(spec, Configurations.of(some), closed(users), Predictor(SHIPPED.artifact))
    for index, shape in enumerate(some):
        assert_same(
            together, index, ask(spec, shape, closed(users), Predictor(SHIPPED.artifact)), 0
        )


def test_what_was_asked_before_changes_nothing() -> None:
    fresh = Predictor(SHIPPED.artifact)
    shape = Configuration(H100, tensor_parallel_size=8)
    for replicas in (1, 2, 3):
        ask(LLAMA_70B, rows(H200, replicas=replicas, tensor_parallel_size=8), closed(9), fresh)
        ask(LLAMA_70B, replace(shape, quantization="fp8"), closed(64), fresh)
    for method in METHODS:
        expected = ask(LLAMA_70B, shape, closed(64), Predictor(SHIPPED.artifact), method=method)
        assert_same(ask(LLAMA_70B, shape, closed(64), fresh, method=method), 0, expected, 0)


def test_many_contexts_and_shapes_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry.engines.budsim.predictor._SHAPES", 3)
    predictor = Predictor(SHIPPED.artifact)
    for seed in range(20):
        some = [Configuration(H100, tensor_parallel_size=2**n) for n in (seed % 3, 3)]
        workload = closed(8, input=100 + seed % 18)
        found = ask(LLAMA_8B, Configurations.of(some), workload, predictor)
        assert_same(found, 1, ask(LLAMA_8B, some[1], workload), 0)
    assert len(predictor._drawn) == 16


@several
@given(spec=specs, shape=shapes, users=st.floats(1, 5000), input=lengths, output=lengths)
def test_little(
    spec: ModelSpec, shape: Configuration, users: float, input: float, output: float
) -> None:
    """Users = requests/s · (wait + service), and no more users are served than there are slots."""
    workload = closed(users, input, output)
    found = ask_one(spec, shape, workload, method="PRIOR")
    ttft = sum(SHIPPED.breakdown(spec, shape, workload, catalogue=CATALOGUE).ttft_ms.values())
    seconds = (ttft + (output - 1) * found.tpot_ms.point) / 1e3
    # A running maximum makes curves longer than the terms; between powers of two a few percent
    # shorter.
    requests = found.throughput_tps.point / output
    assert requests * seconds <= users * 1.05
    servers = max(min(shape.max_num_seqs, found.slots), 1) * shape.replicas
    assert requests * (output - 1) * found.tpot_ms.point / 1e3 <= servers * (1 + 1e-9)


def test_little_exactly() -> None:
    """On a power of two with a growing curve there is neither interpolation nor a maximum."""
    shape = Configuration(H100, tensor_parallel_size=8, replicas=2, max_num_seqs=32)
    for users in (16, 64, 400):
        workload = closed(users, 1024, 512)
        found = ask_one(LLAMA_70B, shape, workload, method="PRIOR")
        ttft = sum(
            SHIPPED.breakdown(LLAMA_70B, shape, workload, catalogue=CATALOGUE).ttft_ms.values()
        )
        seconds = (ttft + 511 * found.tpot_ms.point) / 1e3
        assert found.throughput_tps.point / 512 * seconds == pytest.approx(users, rel=1e-9)


@several
@given(spec=specs, shape=shapes, rate=st.floats(0.001, 1000), input=lengths, output=lengths)
def test_an_open_load_gets_no_more_than_it_offers(
    spec: ModelSpec, shape: Configuration, rate: float, input: float, output: float
) -> None:
    found = ask_one(spec, shape, arriving(rate, input, output))
    offered = rate * output
    assert found.throughput_tps.high <= offered * (1 + 1e-9)
    saturated = found.utilization >= 0.95
    assert np.isinf(found.ttft_p95_ms.point) == saturated
    assert np.isinf(found.latency_p95_ms.point) == saturated
    assert np.isfinite(found.tpot_ms.point)
    if found.utilization < 1:
        assert found.throughput_tps.point == pytest.approx(offered)
    else:
        assert found.throughput_tps.point == pytest.approx(offered / found.utilization)


def _calibrated(
    kind: Kind, target: str, spec: ModelSpec, shape: Configuration, workload: Workload
) -> float:
    """Milliseconds of the calibrated prior at the batch that one replica carries."""
    some = Configurations.of([shape])
    tokens = workload.input.mean + workload.output.mean
    slots = int(memory_map(spec, CATALOGUE, some, tokens).slots[0])
    assert workload.users is not None
    servers = max(min(shape.max_num_seqs, slots), 1)
    batch = min(max(workload.users / shape.replicas, 1.0), servers)
    found = replace(points_of(spec, some, workload, CATALOGUE), batch=np.full(1, float(batch)))
    calibration = SHIPPED.artifact.targets[target].ensemble.calibrations[kind]
    return float(np.exp(calibration.log_seconds(found)[0]) * 1e3)


@several
@given(spec=specs, shape=shapes, users=st.floats(1, 3000), input=lengths, output=lengths)
def test_a_breakdown_sums_to_the_calibrated_prior(
    spec: ModelSpec, shape: Configuration, users: float, input: float, output: float
) -> None:
    workload = closed(users, input, output, share=0.25)
    found: Breakdown = SHIPPED.breakdown(spec, shape, workload, catalogue=CATALOGUE)
    step = _calibrated("step", "tpot", spec, shape, workload)
    assert sum(found.tpot_ms.values()) == pytest.approx(step, rel=1e-9)
    first = _calibrated("first_token", "ttft", spec, shape, workload)
    terms = dict(found.ttft_ms)
    assert terms.pop("wait") >= 0
    assert sum(terms.values()) == pytest.approx(first, rel=1e-9)
    assert set(found.tpot_ms) == {"weights", "kv", "compute", "comm", "overhead"}
    assert min(*found.tpot_ms.values(), *terms.values()) >= 0


def test_a_breakdown_says_what_one_rank_spends_on_communication() -> None:
    alone = SHIPPED.breakdown(LLAMA_8B, Configuration(H100), closed(8), catalogue=CATALOGUE)
    assert alone.tpot_ms["comm"] == alone.ttft_ms["comm"] == 0.0
    shape = Configuration(H100, tensor_parallel_size=8)
    eight = SHIPPED.breakdown(LLAMA_8B, shape, closed(8), catalogue=CATALOGUE)
    assert eight.tpot_ms["comm"] > 0 < eight.ttft_ms["comm"]
    assert eight.tpot_ms["weights"] < alone.tpot_ms["weights"]


def test_the_prior_uses_no_booster() -> None:
    """Without regressors the prior answers the same, and nothing else answers."""
    artifact = load()
    bare = Predictor(replace(artifact, targets={
        name: replace(one, ensemble=replace(one.ensemble, boosters={}))
        for name, one in artifact.targets.items()
    }))  # fmt: skip
    shape = rows(H100, tensor_parallel_size=8)
    assert_same(
        ask(LLAMA_70B, shape, closed(8), bare, method="PRIOR"),
        0,
        ask(LLAMA_70B, shape, closed(8), method="PRIOR"),
        0,
    )
    with pytest.raises(KeyError):
        ask(LLAMA_70B, shape, closed(8), bare)
