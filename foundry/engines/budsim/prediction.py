"""What budsim says of a configuration, with its uncertainty.

Definitions, everywhere: TTFT from arrival at the gateway to the first token; TPOT = (end to end -
TTFT)/(output tokens - 1); throughput counts output tokens only; $/1M tokens = $/h ÷
(3600 · tokens/s) · 10⁶.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from foundry.engines.budsim.configuration import Bools, Floats, Ints

Novelty = Literal["seen family", "new GPU and engine pair", "new model", "new GPU", "new engine"]
NOVELTIES: tuple[Novelty, ...] = (
    "seen family",
    "new GPU and engine pair",
    "new model",
    "new GPU",
    "new engine",
)
Confidence = Literal["high", "medium", "low"]
METRICS = ("ttft_p50_ms", "ttft_p95_ms", "tpot_ms", "latency_p95_ms", "throughput_tps")


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    point: float
    high: float

    def covers(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Estimates:
    """One metric of N configurations; each of shape (N,)."""

    low: Floats
    point: Floats
    high: Floats

    def at(self, index: int) -> Interval:
        return Interval(float(self.low[index]), float(self.point[index]), float(self.high[index]))


@dataclass(frozen=True, slots=True)
class Prediction:
    """One configuration's prediction.

    Attributes:
        throughput_tps: output tokens/s of all replicas.
        cost_per_hour: $.
        cost_per_mtok: $ per 10⁶ output tokens, at the predicted throughput.
        fits: the weights and one sequence of max_model_len fit into the memory.
        slots: sequences whose KV cache fits at once, per replica.
        utilization: offered load over capacity; from 0.95 on no queue is stable.
        novelty: what of the question the training data has not seen.
    """

    ttft_p50_ms: Interval
    ttft_p95_ms: Interval
    tpot_ms: Interval
    latency_p95_ms: Interval
    throughput_tps: Interval
    cost_per_hour: float
    cost_per_mtok: Interval
    fits: bool
    slots: int
    utilization: float
    novelty: Novelty
    confidence: Confidence


@dataclass(frozen=True, slots=True)
class Predictions:
    """N predictions as columns; see `Prediction`. `novelty` are indices into NOVELTIES and
    `confidence` into ("low", "medium", "high")."""

    ttft_p50_ms: Estimates
    ttft_p95_ms: Estimates
    tpot_ms: Estimates
    latency_p95_ms: Estimates
    throughput_tps: Estimates
    cost_per_hour: Floats
    cost_per_mtok: Estimates
    fits: Bools
    slots: Ints
    utilization: Floats
    novelty: Ints
    confidence: Ints

    def __len__(self) -> int:
        return len(self.fits)

    def at(self, index: int) -> Prediction:
        return Prediction(
            ttft_p50_ms=self.ttft_p50_ms.at(index),
            ttft_p95_ms=self.ttft_p95_ms.at(index),
            tpot_ms=self.tpot_ms.at(index),
            latency_p95_ms=self.latency_p95_ms.at(index),
            throughput_tps=self.throughput_tps.at(index),
            cost_per_hour=float(self.cost_per_hour[index]),
            cost_per_mtok=self.cost_per_mtok.at(index),
            fits=bool(self.fits[index]),
            slots=int(self.slots[index]),
            utilization=float(self.utilization[index]),
            novelty=NOVELTIES[int(self.novelty[index])],
            confidence=_CONFIDENCES[int(self.confidence[index])],
        )


_CONFIDENCES: tuple[Confidence, ...] = ("low", "medium", "high")


def scaled(estimates: Estimates, factor: float | Floats) -> Estimates:
    """The estimates times a positive factor."""
    return Estimates(estimates.low * factor, estimates.point * factor, estimates.high * factor)


def inverse(estimates: Estimates, factor: float | Floats = 1.0) -> Estimates:
    """factor ÷ estimates: the ends change places."""
    with np.errstate(divide="ignore"):
        return Estimates(factor / estimates.high, factor / estimates.point, factor / estimates.low)
