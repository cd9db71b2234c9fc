"""Statistics of an endpoint's windows, which replicas of the gateway collect apart and which add.

Definitions: TTFT from arrival at the gateway to the first token, of streamed answers; TPOT =
(end to end - TTFT)/(output tokens - 1); throughput counts output tokens, per second in which at
least one request was in flight; mean concurrency by Little's law over those seconds.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, Self
from uuid import UUID

from foundry.errors import InvalidRequest

# Buckets grow by (1 + a)/(1 - a): a quantile is within the share a of the exact one
# (DDSketch, arXiv:1908.10693).
ACCURACY = 0.01
_LOG_GROWTH = math.log((1 + ACCURACY) / (1 - ACCURACY))
_GROWTH = math.exp(_LOG_GROWTH)
_SMALLEST, _LARGEST = 1e-4, 1e8

Source = Literal["gateway", "load_test"]


@dataclass(slots=True)
class Sketch:
    """Quantiles and the mean of positive numbers. Sketches of parts add up to that of the whole.

    At most 1,400 buckets, whatever is added.
    """

    counts: dict[int, int] = field(default_factory=dict)
    n: int = 0
    total: float = 0.0

    def add(self, value: float) -> None:
        """Values beyond 0.0001 to 100,000,000 count as those; what is no number is left out."""
        if not value >= 0 or value == math.inf:
            return
        clipped = min(max(value, _SMALLEST), _LARGEST)
        bucket = math.ceil(math.log(clipped) / _LOG_GROWTH)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.n += 1
        self.total += clipped

    def merge(self, other: "Sketch") -> None:
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.n += other.n
        self.total += other.total

    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def quantile(self, q: float) -> float | None:
        """The value below which the share `q` lies; None: nothing was added."""
        if not self.n:
            return None
        rank, seen = q * (self.n - 1), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen > rank:
                return 2 * _GROWTH**bucket / (_GROWTH + 1)
        raise AssertionError("unreachable: the counts add up to n")

    def to_json(self) -> dict[str, object]:
        buckets = [part for bucket in sorted(self.counts) for part in (bucket, self.counts[bucket])]
        return {"n": self.n, "total": self.total, "buckets": buckets}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Self:
        buckets = value["buckets"]
        counts = dict(zip(buckets[::2], buckets[1::2], strict=True))
        return cls(counts, value["n"], value["total"])


_SKETCHES = ("ttft_ms", "tpot_ms", "latency_ms", "input_tokens", "output_tokens")
_SUMS = ("requests", "errors", "input_total", "output_total", "in_flight_s")
_NUMBERS = (*_SUMS, "busy_s")


@dataclass(slots=True)
class Statistics:
    """What one window, or one replica's part of it, measured.

    Attributes:
        requests: that were answered in full.
        errors: that the engine or the cluster failed; a client's cancel is none.
        input_total, output_total: tokens of all answered requests.
        in_flight_s: sum of the requests' durations, failed ones too.
        busy_s: in which at least one request was in flight.
    """

    ttft_ms: Sketch = field(default_factory=Sketch)
    tpot_ms: Sketch = field(default_factory=Sketch)
    latency_ms: Sketch = field(default_factory=Sketch)
    input_tokens: Sketch = field(default_factory=Sketch)
    output_tokens: Sketch = field(default_factory=Sketch)
    requests: int = 0
    errors: int = 0
    input_total: int = 0
    output_total: int = 0
    in_flight_s: float = 0.0
    busy_s: float = 0.0

    @property
    def n(self) -> int:
        """Requests whose TTFT was measured."""
        return self.ttft_ms.n

    @property
    def concurrency(self) -> float:
        """Mean number of requests in flight while there were any."""
        return self.in_flight_s / self.busy_s if self.busy_s > 0 else 0.0

    @property
    def error_share(self) -> float:
        ended = self.requests + self.errors
        return self.errors / ended if ended else 0.0

    def answered(
        self, input_tokens: int, output_tokens: int, ttft_s: float | None, duration_s: float
    ) -> None:
        """Count a request that was answered.

        Args:
            ttft_s: None where the answer was not streamed.
        """
        self.requests += 1
        self.input_total += input_tokens
        self.output_total += output_tokens
        self.input_tokens.add(input_tokens)
        self.output_tokens.add(output_tokens)
        self.latency_ms.add(duration_s * 1e3)
        if ttft_s is None:
            return
        self.ttft_ms.add(ttft_s * 1e3)
        if output_tokens > 1:
            self.tpot_ms.add((duration_s - ttft_s) * 1e3 / (output_tokens - 1))

    def actual(self) -> dict[str, float]:
        """Measured values under the names of the predictions; what was not measured is absent."""
        values = {
            "ttft_p50_ms": self.ttft_ms.quantile(0.5),
            "ttft_p95_ms": self.ttft_ms.quantile(0.95),
            "ttft_mean_ms": self.ttft_ms.mean(),
            "tpot_ms": self.tpot_ms.mean(),
            "tpot_p50_ms": self.tpot_ms.quantile(0.5),
            "tpot_p95_ms": self.tpot_ms.quantile(0.95),
            "latency_p95_ms": self.latency_ms.quantile(0.95),
            "throughput_tps": self.output_total / self.busy_s if self.busy_s > 0 else None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def to_json(self) -> dict[str, object]:
        sketches = {name: getattr(self, name).to_json() for name in _SKETCHES}
        return sketches | {name: getattr(self, name) for name in _NUMBERS}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Self:
        fields: dict[str, Any] = {name: Sketch.of_json(value[name]) for name in _SKETCHES}
        return cls(**fields, **{name: value[name] for name in _NUMBERS})


def merge_statistics(parts: Iterable[Statistics]) -> Statistics:
    """One window of its replicas' parts.

    The router spreads requests over the replicas, so they are busy at the same time: busy seconds
    are the longest replica's, everything else adds.
    """
    whole = Statistics()
    for part in parts:
        for name in _SKETCHES:
            getattr(whole, name).merge(getattr(part, name))
        for name in _SUMS:
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        whole.busy_s = max(whole.busy_s, part.busy_s)
    return whole


@dataclass(frozen=True, slots=True)
class WindowPart:
    """What one replica of the gateway measured of one window, from its beginning until now.

    Attributes:
        replica: of the gateway; a new one after every start, so counts never go back.
        engine_version: of the installation that serves, like `0.29.0`.
    """

    tenant_id: UUID
    endpoint_id: UUID
    revision: int
    started_at: datetime
    window_s: float
    replica: UUID
    engine_version: str
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Load:
    """What a window's requests were like, in tokens; the question its prediction answers."""

    concurrency: float
    input_mean: float
    input_p50: float
    input_p95: float
    output_mean: float
    output_p50: float
    output_p95: float

    @classmethod
    def of(cls, statistics: Statistics) -> Self | None:
        """None: there were no requests."""
        incoming, outgoing = statistics.input_tokens, statistics.output_tokens
        if not incoming.n or not outgoing.n or statistics.busy_s <= 0:
            return None
        return cls(
            max(statistics.concurrency, 1.0),
            *(_lengths(incoming)),
            *(_lengths(outgoing)),
        )

    def workload(self) -> dict[str, object]:
        """As the wire writes a closed workload."""

        def lengths(kind: str) -> dict[str, float]:
            return {name: getattr(self, f"{kind}_{name}") for name in ("mean", "p50", "p95")}

        return {"users": self.concurrency, "input": lengths("input"), "output": lengths("output")}


def _lengths(sketch: Sketch) -> tuple[float, float, float]:
    values = (sketch.mean(), sketch.quantile(0.5), sketch.quantile(0.95))
    mean, p50, p95 = (max(value or 1.0, 1.0) for value in values)
    return mean, p50, p95


@dataclass(frozen=True, slots=True)
class Forecast:
    """What budsim predicts of a deployed revision under some load.

    Attributes:
        gpu: catalogue id.
        engine: `vllm`, `sglang` or `tensorrt-llm`.
        engine_version: of the installation that serves, like `0.29.0`.
        configuration: as deployed.
        predicted: metric → low, point, high, as a user sees them; finite.
        applied: metric → factor and spread of the correction that is in them already.
        cost_per_hour: $ of all replicas; None: a price is unknown.
        point: the operating point, under the names of `budsim.points.Points`.
    """

    gpu: str
    engine: str
    engine_version: str
    configuration: dict[str, object]
    predictor_version: str
    predicted: dict[str, tuple[float, float, float]]
    applied: dict[str, tuple[float, float]]
    cost_per_hour: float | None = None
    point: dict[str, float] = field(default_factory=dict)


class Forecasts(Protocol):
    async def forecast(self, endpoint_id: UUID, revision: int, load: Load) -> Forecast | None:
        """None: nothing can be predicted of this revision (no shape, or no known GPU)."""


class Disturbances(Protocol):
    async def was_disturbed(
        self, tenant_id: UUID, endpoint_id: UUID, since: datetime, until: datetime
    ) -> bool:
        """Whether the endpoint was deployed, stopped, or restarted in that time."""


def revision_of(app_name: str) -> int:
    """The revision in an engine application's name.

    Raises:
        InvalidRequest: it names none.
    """
    _, separator, digits = app_name.rpartition("-r")
    if not separator or not digits.isdecimal():
        raise InvalidRequest(f"{app_name!r} is not the name of an engine's application")
    return int(digits)


def configuration_digest(configuration: Mapping[str, object]) -> str:
    """sha256 of canonical JSON, hex."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
