import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.engines.budsim.batching import JUMP_TOLERANCE, EngineLimits, StepTime
from foundry.engines.budsim.request import Lengths
from foundry.engines.budsim.simulator import Router, SimulatedRun, simulate, simulate_queue
from foundry.engines.budsim.traces import Trace, read_trace, synthetic_trace
from foundry.errors import InvalidRequest
from tests.engines.budsim.batching_reference import serve
from tests.engines.budsim.queueing_reference import PerToken, queueing_error, single_token_trace


@dataclass(frozen=True)
class Affine:
    """Seconds: a fixed part and one price for each of the four sizes."""

    fixed: float = 0.008
    token: float = 2e-5
    pair: float = 1e-9
    decode: float = 2e-5
    context: float = 3e-8

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decodes: float, decode_context: float
    ) -> float:
        prefill = prefill_tokens * self.token + prefill_context * self.pair
        return self.fixed + prefill + decodes * self.decode + decode_context * self.context


@dataclass(frozen=True)
class Roofline:
    """Convex with a kink: decodes become bound by memory once their context exceeds 20,000."""

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decodes: float, decode_context: float
    ) -> float:
        compute = 1e-5 * (prefill_tokens + decodes) + 1e-9 * prefill_context
        return 0.001 + max(compute, 0.005, decode_context * 2.5e-7)


@dataclass(frozen=True)
class Curved:
    """Smooth and convex: quadratic in the decodes' context."""

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decodes: float, decode_context: float
    ) -> float:
        return 0.005 + 1e-5 * prefill_tokens + 1e-11 * decode_context**2


@dataclass(frozen=True)
class Constant:
    seconds: float

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decodes: float, decode_context: float
    ) -> float:
        return self.seconds


def _trace(*requests: tuple[float, int, int]) -> Trace:
    """From (arrival, prompt, output)."""
    arrivals, prompts, outputs = zip(*requests, strict=True)
    return Trace(np.array(arrivals, float), np.array(prompts), np.array(outputs))


def _conversations(requests: int, rate: float, seed: int = 7) -> Trace:
    return synthetic_trace(
        requests,
        rate=rate,
        prompt=Lengths(1155, 1020, 3000),
        output=Lengths(211, 129, 600),
        arrival_scv=2.0,
        seed=seed,
    )


_ROOMY = EngineLimits(max_num_seqs=64, max_num_batched_tokens=2048, kv_tokens=10**6)


def test_one_request_by_hand() -> None:
    """100 prompt tokens, then two decodes that attend to 101 and 102 tokens."""
    step = Affine()
    run = simulate(_trace((5.0, 100, 3)), step, _ROOMY)
    prefill = step.step_s(100, 5050, 0, 0)
    decodes = step.step_s(0, 0, 1, 101) + step.step_s(0, 0, 1, 102)
    assert run.queue_s[0] == 0.0
    assert run.ttft_s[0] == pytest.approx(prefill, rel=1e-12)
    assert run.tpot_s[0] == pytest.approx(decodes / 2, rel=1e-12)
    assert run.latency_s[0] == pytest.approx(prefill + decodes, rel=1e-12)
    assert (run.steps, run.output_tokens) == (3, 3)
    assert run.utilization == pytest.approx(1.0, rel=1e-12)
    assert run.throughput_tps == pytest.approx(3 / (prefill + decodes), rel=1e-12)


def test_prompts_are_computed_in_chunks_beside_decodes() -> None:
    """Budget 64: the second prompt of 100 gets 63 tokens beside a decode, then 37."""
    limits = EngineLimits(max_num_seqs=8, max_num_batched_tokens=64, kv_tokens=1024)
    step = Affine()
    run = simulate(_trace((0.0, 32, 9), (0.001, 100, 1)), step, limits)
    first = step.step_s(32, 32 * 33 / 2, 0, 0)
    second = step.step_s(63, 63 * 64 / 2, 1, 33)
    third = step.step_s(37, 37 * 63 + 37 * 38 / 2, 1, 34)
    assert run.ttft_s[1] == pytest.approx(first + second + third - 0.001, rel=1e-12)
    assert run.queue_s[1] == pytest.approx(first - 0.001, rel=1e-12)
    assert math.isnan(run.tpot_s[1])


def test_a_cached_prefix_is_not_computed() -> None:
    """Half of 100 tokens is 48 in whole blocks; of 1 token nothing can be spared."""
    step = Affine()
    run = simulate(_trace((0.0, 100, 1), (9.0, 1, 1)), step, _ROOMY, prefix_share=0.5)
    assert run.ttft_s[0] == pytest.approx(step.step_s(52, 52 * 48 + 52 * 53 / 2, 0, 0), rel=1e-9)
    assert run.ttft_s[1] == pytest.approx(step.step_s(1, 1, 0, 0), rel=1e-9)


def test_arrivals_of_one_instant_share_a_step() -> None:
    run = simulate(_trace(*[(1.0, 10, 1)] * 5), Constant(0.5), _ROOMY)
    assert run.ttft_s.tolist() == [0.5] * 5
    assert run.steps == 1


def test_the_youngest_is_preempted_and_recomputed() -> None:
    """Three blocks: two sequences of 16 + 16 tokens need four, so the second waits for the first.

    Step 1 computes both prompts; step 2's decodes need a block each and only one is free.
    """
    limits = EngineLimits(max_num_seqs=4, max_num_batched_tokens=64, kv_tokens=48)
    run = simulate(_trace((0.0, 16, 16), (0.0, 16, 16)), Constant(1.0), limits)
    assert run.preemptions.tolist() == [0, 1]
    assert run.ttft_s.tolist() == [1.0, 1.0]
    # The second's prompt and first token take 17 tokens, two blocks: free when the first is done.
    assert run.latency_s.tolist() == [16.0, 31.0]
    assert run.peak_kv == pytest.approx(2 / 3)
    assert run.queue_s.tolist() == [0.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 90), st.integers(1, 70)),
        min_size=1,
        max_size=9,
    ),
    seqs=st.integers(1, 6),
    budget=st.integers(6, 120),
    blocks=st.integers(10, 24),
    prefix_share=st.sampled_from([0.0, 0.6]),
    exact=st.booleans(),
)
def test_schedules_as_the_plain_scheduler_does(
    requests: list[tuple[int, int, int]],
    seqs: int,
    budget: int,
    blocks: int,
    prefix_share: float,
    exact: bool,
) -> None:
    """With little memory, so that preemption is common."""
    trace = _trace(*sorted((at * 0.00317, prompt, output) for at, prompt, output in requests))
    limits = EngineLimits(seqs, budget, blocks * 16 + 5)
    prefixes = [
        min(int(prefix_share * prompt), prompt - 1) // 16 * 16
        for prompt in trace.prompt_tokens.tolist()
    ]
    run = simulate(trace, Affine(), limits, prefix_share=prefix_share, exact=exact)
    expected = serve(trace, prefixes, Affine(), limits)
    assert not run.rejected.any()
    assert run.preemptions.tolist() == [preemptions for _, _, preemptions in expected]
    for measured, times in ((run.ttft_s, 0), (run.latency_s, 1)):
        absolute = (measured + trace.arrival_s).tolist()
        assert absolute == pytest.approx([row[times] for row in expected], rel=1e-9)


def _worst(run: SimulatedRun, reference: SimulatedRun, metric: str) -> float:
    measured, exact = getattr(run, metric), getattr(reference, metric)
    return float(np.nanmax(np.abs(measured - exact) / exact))


@pytest.mark.parametrize("replicas", [1, 3])
def test_jumps_are_exact_for_affine_steps(replicas: int) -> None:
    trace = _conversations(300, rate=4.0)
    limits = EngineLimits(48, 2048, 30_000, replicas=replicas)
    jumped = simulate(trace, Affine(), limits)
    stepped = simulate(trace, Affine(), limits, exact=True)
    assert jumped.steps == stepped.steps
    assert jumped.preemptions.tolist() == stepped.preemptions.tolist()
    assert max(_worst(jumped, stepped, name) for name in ("ttft_s", "latency_s")) < 1e-8


def test_jumps_halve_until_a_kink_costs_nothing() -> None:
    """One batch decodes from 15,000 to 47,000 tokens of context, past the kink at 20,000."""
    trace = _trace(*[(0.0, 300, 700 - i) for i in range(50)])
    jumped, stepped = (simulate(trace, Roofline(), _ROOMY, exact=exact) for exact in (False, True))
    assert max(_worst(jumped, stepped, name) for name in ("ttft_s", "tpot_s", "latency_s")) < 1e-12


def test_jumps_over_a_curve_stay_within_tolerance() -> None:
    """No straight line fits, so the error is really there: at most that of a convex step."""
    trace = _trace(*[(0.0, 300, 700 - i) for i in range(50)])
    jumped, stepped = (simulate(trace, Curved(), _ROOMY, exact=exact) for exact in (False, True))
    worst = max(_worst(jumped, stepped, name) for name in ("tpot_s", "latency_s"))
    assert 1e-5 < worst <= 2 * JUMP_TOLERANCE


class _Counted:
    def __init__(self, step: StepTime) -> None:
        self.calls = 0
        self._step = step

    def step_s(
        self, prefill_tokens: float, prefill_context: float, decodes: float, decode_context: float
    ) -> float:
        self.calls += 1
        return self._step.step_s(prefill_tokens, prefill_context, decodes, decode_context)


def test_a_jump_asks_for_three_step_times() -> None:
    step = _Counted(Affine())
    assert simulate(_trace((0.0, 10, 10_001)), step, _ROOMY).steps == 10_001
    assert step.calls == 1 + 3


def test_waits_equal_those_of_the_exact_station() -> None:
    """One sequence at a time and one token each: customer by customer, for three servers too."""
    trace = single_token_trace(3_000, 2.0, 1.0, seed=4)
    services = trace.prompt_tokens / 4000
    limits = EngineLimits(1, 8192, 10**6, replicas=3)
    run = simulate(trace, PerToken(1 / 4000), limits, router="shared")
    assert run.queue_s == pytest.approx(simulate_queue(trace.arrival_s, services, 3), abs=1e-8)
    assert run.latency_s == pytest.approx(run.queue_s + services, abs=1e-8)


def test_mean_waits_equal_the_formulas() -> None:
    errors = queueing_error(customers=150_000, station_customers=1_500_000)
    assert max(errors.values()) <= 0.02, errors


def test_the_station_by_hand() -> None:
    arrivals, services = np.array([0.0, 1.0, 1.5, 9.0]), np.array([2.0, 2.0, 1.0, 1.0])
    assert simulate_queue(arrivals, services).tolist() == [0.0, 1.0, 2.5, 0.0]
    assert simulate_queue(arrivals, services, 2).tolist() == [0.0, 0.0, 0.5, 0.0]
    assert simulate_queue(arrivals, services, 9).tolist() == [0.0] * 4
    assert simulate_queue(np.empty(0), np.empty(0)).tolist() == []


@pytest.mark.parametrize(
    ("arrivals", "services", "servers", "message"),
    [
        ([0.0], [1.0, 2.0], 1, "two vectors"),
        ([1.0, 0.0], [1.0, 2.0], 1, "back in time"),
        ([0.0], [1.0], 0, "at least one server"),
        ([0.0], [-1.0], 1, "at least 0 s"),
        ([0.0], [math.nan], 1, "at least 0 s"),
    ],
)
def test_impossible_stations(
    arrivals: list[float], services: list[float], servers: int, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        simulate_queue(np.array(arrivals), np.array(services), servers)


def test_routers() -> None:
    """Two replicas of one sequence; the first request is long, all others short."""
    trace = _trace((0.0, 10, 100), *[(0.1 + 0.01 * i, 10, 1) for i in range(4)])
    limits = EngineLimits(1, 64, 1024, replicas=2)
    waits = {
        router: simulate(trace, Constant(1.0), limits, router=router).queue_s.round(6).tolist()
        for router in ("round_robin", "least_outstanding", "shared")
    }
    # Round robin sends every second request behind the long one.
    assert waits["round_robin"] == [0.0, 0.0, 99.89, 0.98, 100.87]
    # Of equals the first: request 2 joins the long one, 3 the other, 4 the first again.
    assert waits["least_outstanding"] == [0.0, 0.0, 99.89, 0.98, 100.87]
    assert waits["shared"] == [0.0, 0.0, 0.99, 1.98, 2.97]


def test_a_closed_loop_keeps_its_users_in_flight() -> None:
    """4 users, a step of 1 s, 10 output tokens: a round of 10 s serves 4 requests."""
    trace = _trace(*[(float(i), 5, 10) for i in range(22)])
    run = simulate(trace, Constant(1.0), _ROOMY, users=4)
    assert run.arrival_s.tolist() == [10.0 * (i // 4) for i in range(22)]
    assert run.latency_s.tolist() == [10.0] * 22
    assert run.throughput_tps == pytest.approx(220 / 60)
    assert not run.saturated
    assert simulate(trace, Constant(1.0), _ROOMY, users=99).duration_s == 10.0


def test_littles_law_holds_in_a_closed_loop() -> None:
    trace = _conversations(600, rate=1.0)
    limits = EngineLimits(16, 2048, 40_000, replicas=2)
    run = simulate(trace, Affine(), limits, users=48)
    last = float(run.arrival_s.max())
    in_flight = np.minimum(run.arrival_s + run.latency_s, last) - run.arrival_s
    assert float(in_flight.sum()) / last == pytest.approx(48, rel=1e-12)
    assert run.peak_kv <= 1


def test_what_can_never_fit_is_rejected_and_counted() -> None:
    limits = EngineLimits(4, 64, 160, max_model_len=150)
    trace = _trace((0.0, 100, 50), (0.0, 101, 50), (0.0, 10**6, 1), (1.0, 20, 2))
    run = simulate(trace, Constant(1.0), limits)
    assert run.rejected.tolist() == [False, True, True, False]
    assert np.isnan(run.latency_s).tolist() == [False, True, True, False]
    assert run.output_tokens == 52
    # The last output token needs no cache: 100 + 61 tokens fit into 160, 100 + 62 do not.
    unbounded = EngineLimits(4, 64, 160)
    fits = simulate(_trace((0.0, 100, 61), (0.0, 100, 62)), Constant(1.0), unbounded)
    assert fits.rejected.tolist() == [False, True]


@pytest.mark.parametrize("users", [None, 3])
def test_a_run_without_a_servable_request(users: int | None) -> None:
    run = simulate(_trace((0.0, 99, 9)), Constant(1.0), EngineLimits(1, 8, 16), users=users)
    assert (run.duration_s, run.throughput_tps, run.utilization, run.steps) == (0.0, 0.0, 0.0, 0)
    assert not run.saturated
    assert math.isnan(run.summary()["ttft_s"].p95)


def test_overload_is_reported() -> None:
    """Twice the load that one replica carries: half of the requests wait at the end."""
    limits = EngineLimits(8, 2048, 40_000)
    calm = simulate(_conversations(400, rate=1.0), Affine(), limits)
    flooded = simulate(_conversations(400, rate=8.0), Affine(), limits)
    assert (calm.saturated, flooded.saturated) == (False, True)
    assert flooded.utilization == pytest.approx(1.0, abs=0.01)
    assert flooded.summary()["queue_s"].p95 > 20 * calm.summary()["queue_s"].p95


def test_summaries_are_percentiles() -> None:
    trace = _trace(*[(100.0 * i, 8, i + 1) for i in range(101)])
    latency = simulate(trace, Constant(1.0), _ROOMY).summary()["latency_s"]
    assert (latency.mean, latency.p50, latency.p95, latency.p99) == pytest.approx((51, 51, 96, 100))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"replicas": 0}, "replicas is 0"),
        ({"max_num_batched_tokens": 7}, "below max_num_seqs 8"),
        ({"kv_tokens": 15}, "kv_tokens is 15"),
    ],
)
def test_impossible_limits(changed: dict[str, int], message: str) -> None:
    sizes = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "kv_tokens": 1024, **changed}
    with pytest.raises(InvalidRequest, match=message):
        EngineLimits(**sizes)


def test_impossible_arguments() -> None:
    trace = _trace((0.0, 5, 5))
    with pytest.raises(InvalidRequest, match="users is 0"):
        simulate(trace, Constant(1.0), _ROOMY, users=0)
    with pytest.raises(InvalidRequest, match=r"prefix_share is 1\.0"):
        simulate(trace, Constant(1.0), _ROOMY, prefix_share=1.0)
    router: Router = "random"  # type: ignore[assignment]
    with pytest.raises(InvalidRequest, match="unknown router 'random'"):
        simulate(trace, Constant(1.0), _ROOMY, router=router)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_impossible_step_times(seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="must be positive and finite"):
        simulate(_trace((0.0, 5, 5)), Constant(seconds), _ROOMY)


def test_twenty_thousand_requests_in_seconds() -> None:
    trace = _conversations(20_000, rate=5.5)
    began = time.process_time()
    run = simulate(trace, Affine(), EngineLimits(256, 8192, 300_000, replicas=2))
    assert time.process_time() - began <= 5.0
    assert run.output_tokens == trace.output_tokens.sum()
    assert not run.saturated


@pytest.mark.parametrize(("name", "served"), [("code", 8_819), ("conv", 19_366)])
def test_measured_traces_in_seconds(traces: Path, name: str, served: int) -> None:
    trace = read_trace(traces / f"splitwise_{name}.csv.gz")
    began = time.process_time()
    run = simulate(trace, Affine(), EngineLimits(256, 8192, 300_000, replicas=2))
    assert time.process_time() - began <= 5.0
    assert int((~run.rejected).sum()) == served
    assert run.output_tokens == trace.output_tokens.sum()
