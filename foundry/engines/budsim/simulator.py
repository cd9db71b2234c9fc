"""Discrete-event simulation of a deployment: requests, a router and continuously batching replicas.

`simulate` replays a trace on a step-time model; `simulate_queue` is a plain FCFS station with given
service times, exact, against which formulas and the former are checked.
"""

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foundry.engines.budsim.batching import BLOCK_TOKENS, EngineLimits, Replica, Sequences, StepTime
from foundry.engines.budsim.configuration import Bools, Floats, Ints
from foundry.engines.budsim.traces import Trace
from foundry.errors import InvalidRequest

__all__ = [
    "EngineLimits",
    "Percentiles",
    "Router",
    "SimulatedRun",
    "StepTime",
    "simulate",
    "simulate_queue",
]

Router = Literal["round_robin", "least_outstanding", "shared"]

# Share of the requests that still waits when the last one arrives, above which a run counts as
# saturated: the mirror of a utilization of 0.95, from which on no queue is called stable.
SATURATED = 0.05


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one metric over the served requests, in its unit; NaN where no request has it."""

    mean: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Floats) -> "Percentiles":
        known = values[~np.isnan(values)]
        if not len(known):
            return cls(math.nan, math.nan, math.nan, math.nan)
        p50, p95, p99 = (float(value) for value in np.percentile(known, (50, 95, 99)))
        return cls(float(known.mean()), p50, p95, p99)


@dataclass(frozen=True, slots=True)
class SimulatedRun:
    """N requests as they were served; arrays are (N,), in the trace's order.

    Attributes:
        arrival_s: from the run's start; in a closed loop, when the user submitted it.
        queue_s: from arrival to the first step that computes a token of it.
        ttft_s: from arrival to the first output token.
        tpot_s: (latency - TTFT)/(output tokens - 1); NaN for a single token.
        latency_s: from arrival to the last output token.
        preemptions: times that each request lost its cache.
        rejected: it could never fit; its times are NaN.
        output_tokens: of all served requests together.
        duration_s: from the first arrival to the last completion.
        utilization: share of the duration in which a replica computes; mean over replicas.
        peak_kv: largest share of its KV blocks that a replica had in use.
        steps: of all engines.
        saturated: more than SATURATED of the requests still waited when the last one arrived, so
            the percentiles grow with the trace's length. Never for a closed loop.
    """

    arrival_s: Floats
    queue_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    latency_s: Floats
    preemptions: Ints
    rejected: Bools
    output_tokens: int
    duration_s: float
    utilization: float
    peak_kv: float
    steps: int
    saturated: bool

    @property
    def throughput_tps(self) -> float:
        """Output tokens/s over the whole duration, ramp and drain included."""
        return self.output_tokens / self.duration_s if self.duration_s else 0.0

    def summary(self) -> dict[str, Percentiles]:
        """Percentiles of `queue_s`, `ttft_s`, `tpot_s` and `latency_s`, in seconds."""
        return {
            name: Percentiles.of(getattr(self, name))
            for name in ("queue_s", "ttft_s", "tpot_s", "latency_s")
        }


def simulate(
    requests: Trace,
    step: StepTime,
    limits: EngineLimits,
    *,
    router: Router = "least_outstanding",
    users: int | None = None,
    prefix_share: float = 0.0,
    exact: bool = False,
) -> SimulatedRun:
    """Serve a trace.

    Args:
        router: `round_robin`; `least_outstanding`: the replica with the fewest requests, the
            first of equals; `shared`: one queue, from which a replica takes a request when it has
            a free sequence slot.
        users: closed loop: so many requests are always in flight, and arrival times are ignored.
        prefix_share: of each prompt that the prefix cache holds, in [0, 1), in whole blocks. It
            saves computing; its blocks still count for each request, since prefixes may differ.
        exact: one engine step at a time. Otherwise runs of decode steps are jumped over. That is
            the same, but for rounding, where the step time is affine in the context; where it is
            convex, each step's time is too long by at most 2·JUMP_TOLERANCE; other shapes have no
            bound. Shifted step ends may batch single requests quite differently: then compare
            percentiles, not requests.

    Raises:
        InvalidRequest: an argument is out of range, or a step time is not positive and finite.
    """
    if users is not None and users < 1:
        raise InvalidRequest(f"users is {users}: give at least 1")
    if not 0 <= prefix_share < 1:
        raise InvalidRequest(f"prefix_share is {prefix_share}: give a share from 0 to below 1")
    if router not in ("round_robin", "least_outstanding", "shared"):
        raise InvalidRequest(
            f"unknown router {router!r}: use round_robin, least_outstanding or shared"
        )
    deployment = _Deployment(requests, step, limits, router, prefix_share, exact)
    deployment.run(users)
    return deployment.result(closed=users is not None)


class _Deployment:
    """Replicas, their router and the clock."""

    def __init__(
        self,
        trace: Trace,
        step: StepTime,
        limits: EngineLimits,
        router: Router,
        prefix_share: float,
        exact: bool,
    ) -> None:
        prompt, output = trace.prompt_tokens.tolist(), trace.output_tokens.tolist()
        # At least one token of a prompt is computed: its output is the first token.
        prefix = np.minimum(prefix_share * trace.prompt_tokens, trace.prompt_tokens - 1)
        prefix = prefix.astype(np.int64) // BLOCK_TOKENS * BLOCK_TOKENS
        self._sequences = Sequences.of(prompt, output, prefix.tolist())
        self._admitted = [limits.admits(p, o) for p, o in zip(prompt, output, strict=True)]
        self._arrivals = trace.arrival_s.tolist()
        self._replicas = [
            Replica(self._sequences, limits, step, exact=exact) for _ in range(limits.replicas)
        ]
        self._router = router
        self._turn = 0
        self._shared: deque[int] = deque()
        self._events: list[tuple[float, int]] = []  # (when, replica); stale if not due then
        self._due = [math.inf] * limits.replicas

    def run(self, users: int | None) -> None:
        served = (i for i, admitted in enumerate(self._admitted) if admitted)
        if users is not None:
            for _, sequence in zip(range(users), served, strict=False):
                self._arrivals[sequence] = 0.0
                self._submit(sequence, 0.0)
            self._advance(math.inf, served)
            return
        for sequence in served:
            now = self._arrivals[sequence]
            self._advance(now, iter(()))
            self._submit(sequence, now)
        self._advance(math.inf, iter(()))

    def _advance(self, until: float, successors: Iterator[int]) -> None:
        """All events before `until`; each completion submits the next successor."""
        events, due, replicas = self._events, self._due, self._replicas
        while events and events[0][0] < until:
            now, index = heapq.heappop(events)
            if due[index] != now:
                continue
            due[index] = math.inf
            done = replicas[index].finish(now) if replicas[index].busy else []
            for _, sequence in zip(done, successors, strict=False):
                self._arrivals[sequence] = now
                self._submit(sequence, now)
            self._refill(index)
            end = replicas[index].start(now)
            if end is not None:
                self._schedule(index, end)

    def _submit(self, sequence: int, now: float) -> None:
        replicas = self._replicas
        if self._router == "round_robin":
            index = self._turn
            self._turn = (index + 1) % len(replicas)
        else:
            index = min(range(len(replicas)), key=lambda r: replicas[r].outstanding)
            if self._router == "shared" and not replicas[index].has_slot:
                self._shared.append(sequence)
                return
        # An idle replica wakes by an event of its own, after all that arrives at this instant.
        replica = replicas[index]
        end = replica.interrupt(now) if replica.busy else now
        replica.waiting.append(sequence)
        if end is not None:
            self._schedule(index, end)

    def _refill(self, index: int) -> None:
        replica = self._replicas[index]
        while self._shared and replica.has_slot:
            replica.waiting.append(self._shared.popleft())

    def _schedule(self, index: int, end: float) -> None:
        self._due[index] = end
        heapq.heappush(self._events, (end, index))

    def result(self, *, closed: bool) -> SimulatedRun:
        columns = self._sequences
        admitted = np.asarray(self._admitted, dtype=np.bool_)
        arrival = np.asarray(self._arrivals)
        output = np.asarray(columns.output)
        started, first, finished = (
            np.asarray(column)
            for column in (columns.started, columns.first_token, columns.finished)
        )
        begin, last = _span(arrival[admitted])
        duration = _span(finished[admitted])[1] - begin
        gaps = np.where(output > 1, output - 1, np.nan)
        waiting = np.count_nonzero(started[admitted] > last)
        busy = sum(replica.busy_s for replica in self._replicas)
        return SimulatedRun(
            arrival_s=arrival,
            queue_s=started - arrival,
            ttft_s=first - arrival,
            tpot_s=(finished - first) / gaps,
            latency_s=finished - arrival,
            preemptions=np.asarray(columns.preemptions),
            rejected=~admitted,
            output_tokens=int(output[admitted].sum()),
            duration_s=duration,
            utilization=busy / (duration * len(self._replicas)) if duration else 0.0,
            peak_kv=max(replica.peak_blocks / replica.blocks for replica in self._replicas),
            steps=sum(replica.steps for replica in self._replicas),
            saturated=not closed and bool(waiting > SATURATED * np.count_nonzero(admitted)),
        )


def _span(times: Floats) -> tuple[float, float]:
    return (float(times.min()), float(times.max())) if len(times) else (0.0, 0.0)


def simulate_queue(arrivals: Floats, services: Floats, servers: int = 1) -> Floats:
    """Waits of customers at one FCFS queue with equal servers; exact.

    Args:
        arrivals: (N,) seconds, non-decreasing.
        services: (N,) seconds, ≥ 0.
        servers: ≥ 1.

    Returns:
        (N,) seconds from arrival to the start of service.

    Raises:
        InvalidRequest: shapes differ, arrivals go back in time or a value is out of range.
    """
    if arrivals.shape != services.shape or arrivals.ndim != 1:
        raise InvalidRequest(
            f"{arrivals.shape} arrivals and {services.shape} services: give two vectors of one size"
        )
    if servers < 1 or (len(services) and not services.min() >= 0):
        raise InvalidRequest("give at least one server and service times of at least 0 s")
    if not np.all(np.diff(arrivals) >= 0):
        raise InvalidRequest("arrivals go back in time: sort them")
    if servers == 1:
        return _lindley(arrivals, services)
    free = [-math.inf] * servers
    starts = []
    for arrival, service in zip(arrivals.tolist(), services.tolist(), strict=True):
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + service)
        starts.append(start)
    return np.asarray(starts) - arrivals


def _lindley(arrivals: Floats, services: Floats) -> Floats:
    """W = max(0, W + S - gap) of the customer before, as a random walk above its minimum."""
    walk = np.zeros(len(arrivals))
    np.cumsum(services[:-1] - np.diff(arrivals), out=walk[1:])
    wait: Floats = walk - np.minimum.accumulate(walk)
    return wait
