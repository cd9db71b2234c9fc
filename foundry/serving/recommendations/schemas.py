"""Wire models of budsim: questions, answers, prices.

TTFT runs from arrival at the gateway to the first token; TPOT = (end to end - TTFT)/(output
tokens - 1); throughput counts output tokens; $/1M tokens = $/h / (3600 * tokens/s) * 10^6.
"""

from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foundry.engines.budsim.request import (
    ClusterSpec,
    KvDtype,
    Lengths,
    Method,
    NodeGroup,
    Objective,
    Percentile,
    Policy,
    Quantization,
    Request,
    Runtime,
    Targets,
    Workload,
)
from foundry.infra.schemas import Out, PageOut
from foundry.serving.recommendations.domain import ENDED as ENDED
from foundry.serving.recommendations.domain import MAX_CONFIGURATIONS
from foundry.serving.recommendations.domain import MAX_TRACE_ROWS as MAX_TRACE_ROWS

_MAX_TOKENS = 2**24


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class LengthsIn(_In):
    """Tokens per request; percentiles that are not given equal the mean."""

    mean: float = Field(ge=1, le=_MAX_TOKENS, description="on average")
    p50: float | None = Field(default=None, ge=1, le=_MAX_TOKENS, description="unset: the mean")
    p95: float | None = Field(default=None, ge=1, le=_MAX_TOKENS, description="unset: the mean")

    def lengths(self) -> Lengths:
        return Lengths(self.mean, self.p50 or self.mean, self.p95 or self.mean)


class WorkloadIn(_In):
    """Either `users` (so many requests are always in flight) or `rate` (requests/s)."""

    input: LengthsIn = Field(description="tokens of prompts")
    output: LengthsIn = Field(description="tokens of answers")
    users: float | None = Field(default=None, ge=1, le=1e6, description="requests in flight")
    rate: float | None = Field(default=None, gt=0, le=1e6, description="requests per second")
    arrival_scv: float = Field(
        default=1.0, ge=0, le=1000, description="of the gaps between arrivals; 1 is Poisson"
    )
    prefix_share: float = Field(default=0.0, ge=0, lt=1, description="of the input, cached")

    @model_validator(mode="after")
    def _closed_or_open(self) -> Self:
        if (self.users is None) == (self.rate is None):
            raise ValueError("give users (a closed workload) or rate (an open one), and one only")
        return self

    def workload(self) -> Workload:
        return Workload(
            input=self.input.lengths(),
            output=self.output.lengths(),
            users=self.users,
            rate=self.rate,
            arrival_scv=self.arrival_scv,
            prefix_share=self.prefix_share,
        )


class TargetsIn(_In):
    """Bounds; what is unset is free. Latencies are judged at `percentile`."""

    max_ttft_ms: float | None = Field(default=None, gt=0, description="to the first token, ms")
    max_tpot_ms: float | None = Field(default=None, gt=0, description="per further token, ms")
    max_latency_ms: float | None = Field(default=None, gt=0, description="end to end")
    min_throughput_tps: float | None = Field(default=None, gt=0, description="output tokens/s")
    max_cost_per_hour: float | None = Field(default=None, gt=0, description="$")
    max_cost_per_mtok: float | None = Field(default=None, gt=0, description="$ per 10^6 tokens")
    percentile: Percentile = Field(default="p95", description="of requests, for latencies")

    def targets(self) -> Targets:
        return Targets(**self.model_dump())


class PolicyIn(_In):
    """What the search may use."""

    runtimes: tuple[Runtime, ...] = Field(default=("vllm",), min_length=1, description="allowed")
    quantizations: tuple[Quantization, ...] = Field(
        default=("none",), min_length=1, description="formats of weights that are allowed"
    )
    kv_dtypes: tuple[KvDtype, ...] = Field(
        default=("auto",), min_length=1, description="formats of the cache that are allowed"
    )
    min_replicas: int = Field(default=1, ge=1, le=100, description="2 survives the loss of one")
    max_replicas: int = Field(default=100, ge=1, le=100, description="at most so many copies")
    confidence: float = Field(default=0.9, ge=0.5, le=0.99)
    objectives: tuple[Objective, ...] = Field(
        default=("cost", "ttft", "throughput"),
        min_length=1,
        max_length=3,
        description="what is traded off, most important first",
    )
    memory_headroom: float = Field(default=0.1, ge=0.02, le=0.5, description="share kept free")
    max_model_len: int | None = Field(default=None, ge=16, le=_MAX_TOKENS)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self

    def policy(self) -> Policy:
        return Policy(**self.model_dump())


class NodeGroupIn(_In):
    """Equal nodes of a cluster."""

    gpu: str = Field(max_length=128, description="catalogue id")
    gpus_per_node: int = Field(ge=1, le=64, description="accelerators of one node")
    nodes: int = Field(default=1, ge=1, le=10_000, description="how many of them")
    free_gpus: int | None = Field(default=None, ge=0, description="unset: all are free")
    network_gbps: float = Field(default=12.5, gt=0, description="GB/s, one way per node")
    price_per_gpu_hour: float | None = Field(default=None, gt=0, description="$; unset: catalogue")
    cores_per_node: float | None = Field(
        default=None, gt=0, le=4096, description="CPU cores for replicas; unset: enough"
    )
    memory_gb_per_node: float | None = Field(
        default=None, gt=0, le=1e6, description="host memory for replicas; unset: enough"
    )


class ClusterIn(_In):
    """Accelerators to choose from."""

    groups: tuple[NodeGroupIn, ...] = Field(
        min_length=1, max_length=64, description="groups of equal nodes"
    )

    def cluster(self) -> ClusterSpec:
        return ClusterSpec(tuple(NodeGroup(**group.model_dump()) for group in self.groups))


class ModelIn(_In):
    """Either a model of the registry or a `config.json` as it is."""

    model: str | None = Field(default=None, max_length=320, description="a registry reference")
    config: dict[str, object] | None = Field(default=None, description="a config.json")
    checkpoint_bytes: int | None = Field(default=None, ge=1, description="size of the weight files")

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.model is None) == (self.config is None):
            raise ValueError("give model (a registry reference) or config (a config.json)")
        if self.model is not None and self.checkpoint_bytes is not None:
            raise ValueError("checkpoint_bytes goes with config; the registry knows its own files")
        return self


class RecommendationCreate(ModelIn):
    """A question: which configuration meets the targets for the least money."""

    workload: WorkloadIn
    cluster: ClusterIn | None = Field(default=None, description="unset: the live cluster")
    targets: TargetsIn = Field(default_factory=TargetsIn)
    policy: PolicyIn = Field(default_factory=PolicyIn)
    method: Method = Field(default="REGRESSOR", description="PRIOR: physics only")

    def demand(self, cluster: ClusterIn) -> "Demand":
        """The question apart from the model."""
        return Demand(
            workload=self.workload,
            cluster=cluster,
            targets=self.targets,
            policy=self.policy,
            method=self.method,
        )


class Demand(_In):
    """What is asked of a model: the stored form of a question."""

    workload: WorkloadIn
    cluster: ClusterIn
    targets: TargetsIn
    policy: PolicyIn
    method: Method

    def request(self) -> Request:
        return Request(
            workload=self.workload.workload(),
            cluster=self.cluster.cluster(),
            targets=self.targets.targets(),
            policy=self.policy.policy(),
            method=self.method,
        )


class ConfigurationIn(_In):
    """A serving configuration; per replica except `replicas`."""

    gpu: str = Field(max_length=128, description="catalogue id")
    runtime: Runtime = "vllm"
    tensor_parallel_size: int = Field(default=1, ge=1, le=64)
    pipeline_parallel_size: int = Field(default=1, ge=1, le=64)
    replicas: int = Field(default=1, ge=1, le=1000)
    max_model_len: int | None = Field(
        default=None,
        ge=16,
        le=_MAX_TOKENS,
        description="tokens of one request; unset: 8192, or the model's own context if shorter",
    )
    max_num_seqs: int = Field(default=256, ge=1, le=65536)
    max_num_batched_tokens: int = Field(default=8192, ge=16, le=_MAX_TOKENS)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    quantization: Quantization = "none"
    kv_cache_dtype: KvDtype = "auto"


class PredictIn(ModelIn):
    """What if: so many configurations under one workload."""

    workload: WorkloadIn
    configurations: list[ConfigurationIn] = Field(
        min_length=1, max_length=MAX_CONFIGURATIONS, description="in the order of the answers"
    )
    cluster: ClusterIn | None = Field(default=None, description="unset: catalogue prices and links")
    method: Method = "REGRESSOR"
    confidence: float = Field(default=0.9, ge=0.5, le=0.99)


class IntervalOut(BaseModel):
    """A predicted value and the interval around it."""

    low: float | None = Field(description="lower end")
    point: float | None = Field(description="most likely value")
    high: float | None = Field(description="upper end")


class PredictionOut(BaseModel):
    """A null is a number without bound: an overloaded configuration has no finite TTFT."""

    ttft_p50_ms: IntervalOut = Field(description="median time to the first token, ms")
    ttft_p95_ms: IntervalOut = Field(description="time to the first token that 95 % keep, ms")
    tpot_ms: IntervalOut = Field(description="mean time per further token, ms")
    latency_p95_ms: IntervalOut = Field(description="time to the last token that 95 % keep, ms")
    throughput_tps: IntervalOut = Field(description="output tokens per second")
    cost_per_hour: float | None = Field(description="$ per hour")
    cost_per_mtok: IntervalOut = Field(description="$ per 10^6 tokens")
    fits: bool = Field(description="whether it fits into memory")
    slots: int = Field(description="sequences that a replica can hold at once")
    utilization: float | None = Field(
        description="share of its capacity in use; 1 and more: overloaded"
    )
    novelty: str = Field(description="what of the question the measurements have not seen")
    confidence: str = Field(description="low, medium or high")


class PredictionList(BaseModel):
    """Predictions in the order of the configurations."""

    data: list[PredictionOut]
    notes: list[str] = Field(default_factory=list, description="alarms that these meet")


class ValidateIn(ModelIn):
    """A manual configuration, as YAML text or as JSON."""

    deployment: dict[str, object] | str = Field(description="deployment{runtime, config, ...}")
    workload: WorkloadIn
    cluster: ClusterIn | None = None
    targets: TargetsIn = Field(default_factory=TargetsIn)
    policy: PolicyIn = Field(default_factory=PolicyIn)
    method: Method = "REGRESSOR"


class TargetOut(BaseModel):
    """How a configuration stands to one target."""

    name: str
    percentile: Percentile = Field(description="of the requests whose latency is held to it")
    limit: float
    bound: float | None = Field(description="the pessimistic end of the prediction; null: none")
    slack: float | None = Field(description="distance to the limit as a share; negative: missed")
    met: bool = Field(description="whether the pessimistic end keeps to it")


class ValidationOut(BaseModel):
    """A configuration without violations, what it would do, and what to think of it."""

    configuration: dict[str, object] = Field(description="as it is understood, with defaults")
    prediction: PredictionOut = Field(description="what it would do")
    targets: list[TargetOut] = Field(default_factory=list, description="those that were given")
    overloaded: bool = Field(default=False, description="the load is more than it carries")
    warnings: list[str] = Field(description="what is allowed and yet doubtful")
    predictor_version: str


class TraceRow(_In):
    """One request of a trace."""

    arrival_s: float = Field(ge=0, le=1e9, description="seconds since the trace began")
    input_tokens: int = Field(ge=1, le=_MAX_TOKENS, description="tokens of the prompt")
    output_tokens: int = Field(ge=1, le=_MAX_TOKENS, description="tokens of the answer")


class SimulateIn(ModelIn):
    """Replay requests through one configuration: a trace, or a synthetic workload."""

    configuration: ConfigurationIn = Field(description="that serves the requests")
    trace: list[TraceRow] | None = Field(
        default=None, min_length=1, max_length=MAX_TRACE_ROWS, description="or give `workload`"
    )
    workload: WorkloadIn | None = None
    requests: int = Field(default=2000, ge=1, le=MAX_TRACE_ROWS, description="synthetic ones")
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.trace is None) == (self.workload is None):
            raise ValueError("give a trace or a workload")
        return self


class SimulationOut(BaseModel):
    """What the replay measured."""

    data: dict[str, object]


class RecommendationOut(Out):
    """`result` once it is DONE, `error` once it has FAILED."""

    id: UUID
    state: Literal["PENDING", "RUNNING", "DONE", "FAILED"] = Field(
        description="PENDING and RUNNING: not answered yet; DONE: see `result`; FAILED: see `error`"
    )
    method: str
    model: str | None = Field(description="registry reference; null: a config.json was given")
    request: dict[str, object] = Field(description="the question as it was asked")
    digest: str = Field(description="sha256 of the question: equal questions share an answer")
    catalogue_digest: str = Field(description="sha256 of the catalogue that counted")
    predictor_version: str
    attempt: int = Field(description="how often the search was begun")
    result: dict[str, object] | None = Field(
        description="the answer: configuration, prediction, price and alternatives"
    )
    error: dict[str, object] | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class RecommendationList(PageOut[RecommendationOut]):
    """A page of recommendations."""


class ParetoOut(BaseModel):
    """Answers that no other beats in every objective; the recommended one first."""

    data: list[dict[str, object]]
