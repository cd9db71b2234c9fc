"""Why this configuration: where the time and the memory go, what binds, and what else was near.

All text is made of the numbers beside it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.memory import memory_map
from foundry.engines.budsim.prediction import Prediction, Predictions
from foundry.engines.budsim.request import ClusterSpec, NodeGroup, Request, Targets, Workload
from foundry.engines.budsim.search.evaluation import Evaluator, Predicts
from foundry.engines.budsim.search.neighbours import Neighbour, neighbours
from foundry.engines.budsim.search.recommend import recommend
from foundry.engines.budsim.search.recommendation import Recommendation
from foundry.engines.budsim.search.relaxation import slack
from foundry.engines.budsim.search.targets import Name, judge, limits
from foundry.errors import InvalidRequest

TTFT_TERMS = ("wait", "prefill_compute", "memory", "comm", "interference")
TPOT_TERMS = ("weights", "kv", "compute", "comm", "overhead")

Bottleneck = Literal["compute", "bandwidth", "memory capacity", "link", "queue"]


class Breakdown(Protocol):
    """The prior of one configuration by terms, ms; each mapping sums to its prior."""

    @property
    def ttft_ms(self) -> Mapping[str, float]:
        """By TTFT_TERMS, of the mean request."""
        ...

    @property
    def tpot_ms(self) -> Mapping[str, float]:
        """By TPOT_TERMS."""
        ...


class Explains(Predicts, Protocol):
    """A predictor that shows its terms."""

    def breakdown(
        self,
        spec: ModelSpec,
        configuration: Configuration,
        workload: Workload,
        *,
        catalogue: Catalogue,
        groups: ClusterSpec | None = None,
    ) -> Breakdown: ...


@dataclass(frozen=True, slots=True)
class Latency:
    """One latency, ms.

    Attributes:
        terms: of the physical prior; they sum to `prior`.
        learnt: factor from the prior to the prediction: what measurements add to physics.
    """

    terms: Mapping[str, float]
    prior: float
    learnt: float
    predicted: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one accelerator; the five sum to its memory.

    Attributes:
        kv: all that the engine keeps for the KV cache.
        free: left to others, the share beyond gpu_memory_utilization.
        slots: sequences of the workload that fit into `kv`.
    """

    weights: float
    kv: float
    activations: float
    communication: float
    free: float
    slots: int

    @property
    def total(self) -> float:
        return self.weights + self.kv + self.activations + self.communication + self.free


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an answer is as it is.

    Attributes:
        slacks: distance to each target as a share of its limit; negative: missed.
        binding: the target with the least slack.
        neighbours: the best configurations one step away.
    """

    configuration: Configuration
    prediction: Prediction
    ttft: Latency
    tpot: Latency
    memory: Memory
    bottleneck: Bottleneck
    slacks: Mapping[Name, float]
    binding: Name | None
    neighbours: tuple[Neighbour, ...]

    @property
    def text(self) -> str:
        return "\n".join(_lines(self))

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "text": self.text}


def explain(
    spec: ModelSpec,
    request: Request,
    configuration: Configuration,
    *,
    catalogue: Catalogue,
    predictor: Explains,
) -> Explanation:
    """Explains a configuration, recommended or manual.

    Raises:
        InvalidRequest: it does not fit into the memory.
    """
    evaluator = Evaluator(spec, request, catalogue, predictor)
    rows = Configurations.of([configuration])
    predictions = evaluator.predict(rows)
    prediction = predictions.at(0)
    if not prediction.fits:
        raise InvalidRequest("the configuration does not fit into the memory; validate it first")
    terms = predictor.breakdown(
        spec, configuration, request.workload, catalogue=catalogue, groups=request.cluster
    )
    slacks = _slacks(request, predictions)
    memory = _memory(evaluator, rows)
    # The terms are means, so the learnt factor is that of the median.
    ttft = _latency(terms.ttft_ms, prediction.ttft_p50_ms.point)
    tpot = _latency(terms.tpot_ms, prediction.tpot_ms.point)
    return Explanation(
        configuration=configuration,
        prediction=prediction,
        ttft=ttft,
        tpot=tpot,
        memory=memory,
        bottleneck=_bottleneck(configuration, ttft, tpot, memory),
        slacks=slacks,
        binding=_tightest(slacks),
        neighbours=neighbours(evaluator, configuration),
    )


def _slacks(request: Request, predictions: Predictions) -> dict[Name, float]:
    found = limits(request.targets)
    bounds = judge(predictions, request.targets, request.workload).bounds
    return {name: slack(name, found[name], float(bound[0])) for name, bound in bounds.items()}


def _tightest(slacks: Mapping[Name, float]) -> Name | None:
    return min(slacks.items(), key=lambda item: item[1])[0] if slacks else None


def _latency(terms: Mapping[str, float], predicted: float) -> Latency:
    prior = sum(terms.values())
    comparable = prior > 0.0 and math.isfinite(prior)
    return Latency(dict(terms), prior, predicted / prior if comparable else 1.0, predicted)


def _memory(evaluator: Evaluator, rows: Configurations) -> Memory:
    ground = evaluator.ground()
    tokens = np.full(1, ground.tokens)
    found = memory_map(ground.spec, ground.catalogue, rows, tokens)
    limit = float(found.limit[0])
    used = [float(column[0]) for column in (found.weights, found.activations, found.communication)]
    return Memory(
        weights=used[0],
        kv=limit - sum(used),
        activations=used[1],
        communication=used[2],
        free=limit / float(rows.gpu_memory_utilization[0]) - limit,
        slots=int(found.slots[0]),
    )


def _bottleneck(
    configuration: Configuration, ttft: Latency, tpot: Latency, memory: Memory
) -> Bottleneck:
    """Requests that mostly wait are short of slots, where memory bounds these, or of replicas;
    the others of what takes most of a decode step."""
    wait = ttft.terms["wait"]
    if wait > 0.5 * ttft.prior or math.isinf(wait):
        full = configuration.max_num_seqs >= memory.slots
        return "memory capacity" if full else "queue"
    shares: dict[Bottleneck, float] = {
        "bandwidth": tpot.terms["weights"] + tpot.terms["kv"],
        "compute": tpot.terms["compute"],
        "link": tpot.terms["comm"],
    }
    return max(shares, key=lambda name: shares[name])


def _lines(answer: Explanation) -> list[str]:
    at, prediction = answer.configuration, answer.prediction
    lines = [
        f"{_count(at.replicas, 'replica')} on {at.gpu}, tensor parallel "
        f"{at.tensor_parallel_size}, pipeline parallel {at.pipeline_parallel_size}: "
        f"{_count(at.gpus, 'accelerator')} for "
        f"${prediction.cost_per_hour:.2f} an hour.",
        _latency_line("TTFT p50", answer.ttft),
        _latency_line("TPOT", answer.tpot),
        _memory_line(answer.memory),
        f"Bottleneck: {answer.bottleneck}.",
        f"Confidence: {prediction.confidence} ({prediction.novelty}).",
    ]
    if answer.binding is not None:
        share = answer.slacks[answer.binding]
        state = f"met with {share:.0%} to spare" if share >= 0 else f"missed {_by(-share)}"
        lines.append(f"Binding target: {answer.binding}, {state}.")
    lines += [_neighbour_line(one) for one in answer.neighbours]
    return lines


def _latency_line(name: str, latency: Latency) -> str:
    terms = ", ".join(
        f"{term.replace('_', ' ')} {value:.1f}" for term, value in latency.terms.items()
    )
    return (
        f"{name}: {latency.predicted:.1f} ms = {latency.prior:.1f} ms of physics ({terms}) times "
        f"{latency.learnt:.2f} learnt."
    )


def _memory_line(memory: Memory) -> str:
    parts = {
        "weights": memory.weights,
        "KV cache": memory.kv,
        "activations": memory.activations,
        "communication": memory.communication,
        "free": memory.free,
    }
    shown = ", ".join(f"{name} {value / 1e9:.1f}" for name, value in parts.items())
    return f"Memory of each accelerator, GB: {shown}; {memory.slots} sequences fit."


def _neighbour_line(one: Neighbour) -> str:
    head = f"Rejected: {one.field} {one.value}: {_changed(one.cost_change)} cost per token, "
    head += f"{_changed(one.ttft_change)} TTFT p95; "
    if one.why == "misses a target":
        return f"{head}misses {one.missed} {_by(one.amount)}."
    if one.why == "overloaded":
        return f"{head}{one.amount:.0%} above the target utilisation."
    return f"{head}{one.amount:+.1%} in the first objective."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _by(share: float) -> str:
    """How far a target is missed: beyond twice its limit nobody reads percent."""
    return f"by {share:.0%}" if share <= 1 else f"at {1 + share:,.3g} times its limit"


def _changed(share: float) -> str:
    return f"{share:+.1%}"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Another question's answer against the first; changes are None where one has no choice.

    Attributes:
        cost_per_hour: $, new less old.
        cost_per_mtok: $/10⁶ tokens, new less old.
        ttft_p95_ms: new less old.
        throughput_tps: new less old.
        gpus: accelerators, new less old.
    """

    answer: Recommendation
    cost_per_hour: float | None
    cost_per_mtok: float | None
    ttft_p95_ms: float | None
    throughput_tps: float | None
    gpus: int | None


def what_if(
    spec: ModelSpec,
    request: Request,
    answer: Recommendation,
    *,
    catalogue: Catalogue,
    predictor: Predicts,
    gpu: str | None = None,
    users: float | None = None,
    slo: Targets | None = None,
) -> WhatIf:
    """Searches again with another accelerator, load or targets.

    Args:
        gpu: the cluster's own groups of it; else as many nodes of it as of the chosen one.

    Raises:
        InvalidRequest: nothing is changed, or the new question is invalid.
    """
    changed = _changed_request(request, answer, catalogue, gpu=gpu, users=users, slo=slo)
    again = recommend(spec, changed, catalogue=catalogue, predictor=predictor)
    if answer.choice is None or again.choice is None:
        return WhatIf(again, None, None, None, None, None)
    old, new = answer.choice.prediction, again.choice.prediction
    return WhatIf(
        answer=again,
        cost_per_hour=new.cost_per_hour - old.cost_per_hour,
        cost_per_mtok=new.cost_per_mtok.point - old.cost_per_mtok.point,
        ttft_p95_ms=new.ttft_p95_ms.point - old.ttft_p95_ms.point,
        throughput_tps=new.throughput_tps.point - old.throughput_tps.point,
        gpus=again.choice.configuration.gpus - answer.choice.configuration.gpus,
    )


def _changed_request(
    request: Request,
    answer: Recommendation,
    catalogue: Catalogue,
    *,
    gpu: str | None,
    users: float | None,
    slo: Targets | None,
) -> Request:
    if gpu is None and users is None and slo is None:
        raise InvalidRequest("what-if: give gpu, users or slo")
    if gpu is not None:
        request = replace(request, cluster=ClusterSpec(_groups_of(request, answer, catalogue, gpu)))
    if users is not None:
        request = replace(request, workload=replace(request.workload, users=users, rate=None))
    return request if slo is None else replace(request, targets=slo)


def _groups_of(
    request: Request, answer: Recommendation, catalogue: Catalogue, gpu: str
) -> tuple[NodeGroup, ...]:
    groups = request.cluster.groups
    own = tuple(group for group in groups if group.gpu == gpu)
    if own:
        return own
    chosen = groups[0].gpu if answer.choice is None else answer.choice.configuration.gpu
    known = catalogue.gpu(gpu).id
    alike = [group for group in groups if group.gpu == chosen]
    return tuple(replace(group, gpu=known, price_per_gpu_hour=None) for group in alike)
