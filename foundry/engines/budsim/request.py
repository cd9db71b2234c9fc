"""The question: a workload, its targets, the cluster at hand and what the asker allows."""

from dataclasses import dataclass, field
from typing import Literal

Percentile = Literal["p50", "p95", "p99"]
Runtime = Literal["vllm", "sglang", "tensorrt-llm"]
Quantization = Literal["none", "fp8", "int8", "int4", "fp4"]
KvDtype = Literal["auto", "fp8"]
Method = Literal["REGRESSOR", "PRIOR"]
Objective = Literal["cost", "ttft", "throughput"]

RUNTIMES: tuple[Runtime, ...] = ("vllm", "sglang", "tensorrt-llm")
QUANTIZATIONS: tuple[Quantization, ...] = ("none", "fp8", "int8", "int4", "fp4")
KV_DTYPES: tuple[KvDtype, ...] = ("auto", "fp8")


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Equal nodes of a cluster.

    Attributes:
        gpu: catalogue id, like `nvidia-h100-80gb`.
        gpus_per_node: accelerators in one node.
        nodes: of this kind.
        free_gpus: that nothing uses now, over all nodes; None: all are free.
        network_gbps: between nodes, GB/s in one direction per node.
        price_per_gpu_hour: $; None: the catalogue's price.
        cores_per_node: that replicas may reserve in one node; None: unknown, so enough.
        memory_gb_per_node: of the host, 10⁹ bytes, likewise.
    """

    gpu: str
    gpus_per_node: int
    nodes: int = 1
    free_gpus: int | None = None
    network_gbps: float = 12.5
    price_per_gpu_hour: float | None = None
    cores_per_node: float | None = None
    memory_gb_per_node: float | None = None

    @property
    def available_gpus(self) -> int:
        total = self.gpus_per_node * self.nodes
        return total if self.free_gpus is None else min(self.free_gpus, total)


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    groups: tuple[NodeGroup, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens per request. Where only the mean is known the percentiles equal it."""

    mean: float
    p50: float
    p95: float

    @classmethod
    def of(cls, mean: float) -> "Lengths":
        return cls(mean, mean, mean)


@dataclass(frozen=True, slots=True)
class Workload:
    """Closed (`users`: that many requests are always in flight) or open (`rate`).

    Attributes:
        users: concurrent requests; None: the workload is open.
        rate: requests/s; None: the workload is closed.
        arrival_scv: squared coefficient of variation of the gaps between arrivals; 1 is Poisson.
        prefix_share: share of input tokens found in the prefix cache, 0 to < 1.
    """

    input: Lengths
    output: Lengths
    users: float | None = None
    rate: float | None = None
    arrival_scv: float = 1.0
    prefix_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Targets:
    """Bounds; None: free. Latencies are judged at `percentile`."""

    max_ttft_ms: float | None = None
    max_tpot_ms: float | None = None
    max_latency_ms: float | None = None
    min_throughput_tps: float | None = None
    max_cost_per_hour: float | None = None
    max_cost_per_mtok: float | None = None
    percentile: Percentile = "p95"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the asker allows.

    Attributes:
        confidence: of the intervals on which targets are judged, 0.5 to 0.99.
        objectives: the first one orders the answers.
        memory_headroom: share of GPU memory that stays unused; bounds gpu_memory_utilization.
        max_model_len: tokens that one request may hold; None: what the workload's p95 needs,
            rounded up to a power of two, at most the model's own length.
    """

    runtimes: tuple[Runtime, ...] = ("vllm",)
    quantizations: tuple[Quantization, ...] = ("none",)
    kv_dtypes: tuple[KvDtype, ...] = ("auto",)
    min_replicas: int = 1
    max_replicas: int = 100
    confidence: float = 0.9
    objectives: tuple[Objective, ...] = ("cost", "ttft", "throughput")
    memory_headroom: float = 0.1
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Everything an answer depends on; its digest seeds the search."""

    workload: Workload
    cluster: ClusterSpec
    targets: Targets = field(default_factory=Targets)
    policy: Policy = field(default_factory=Policy)
    method: Method = "REGRESSOR"
