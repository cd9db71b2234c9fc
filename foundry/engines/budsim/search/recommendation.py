"""The answer: what to set, what to expect, and what stands in the way."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

from foundry.engines.budsim.architecture import WEIGHT_BYTES, ModelSpec
from foundry.engines.budsim.configuration import Configuration
from foundry.engines.budsim.prediction import Prediction
from foundry.engines.budsim.request import ClusterSpec, NodeGroup, Percentile, Request
from foundry.engines.budsim.search.support import weight_format
from foundry.engines.budsim.search.targets import Name

# Where a node does not tell what it has.
_ENOUGH = 2**31


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one replica."""

    gpu_type: str
    gpu_count: int
    cpu_cores: int
    memory_gb: int


@dataclass(frozen=True, slots=True)
class Target:
    """How the configuration stands to one target.

    Attributes:
        limit: as asked; ms, tokens/s or $.
        bound: the pessimistic end of the predicted interval, in the same unit.
        slack: distance to the limit as a share of it; negative: missed.
        relaxed: the smallest change of this limit alone that some configuration meets, all other
            targets kept; None: feasible already, or not by this target alone.
    """

    name: Name
    percentile: Percentile
    limit: float
    bound: float
    slack: float
    met: bool
    relaxed: float | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration's place among the objectives, at the middle of its intervals."""

    cost_per_mtok: float
    ttft_p95_ms: float
    throughput_tps: float


@dataclass(frozen=True, slots=True)
class Choice:
    configuration: Configuration
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Regret:
    """The evolution against all configurations; None in a ratio: one of them is not feasible.

    Attributes:
        cost_ratio: best value of the first objective, evolution over oracle; 1 is optimal.
        hypervolume_ratio: of the fronts in log objectives normalised to the oracle's; the
            reference point is 1.1 in each.
    """

    cost_ratio: float | None
    hypervolume_ratio: float | None


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why nothing fits: the group that comes closest.

    Attributes:
        term: of the memory that goes over the limit first; or the rule that fails.
        missing_bytes: per accelerator, at the widest sharding; 0: memory is not what fails.
    """

    gpu: str
    term: str
    missing_bytes: float
    reason: str


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer to a question.

    Attributes:
        feasible: the choice meets every target at the asked confidence.
        choice: the best configuration; infeasible: the nearest; None: nothing fits.
        binding: the target with the least slack; infeasible: the one that must move least to make
            the question feasible; None: no target stands in the way.
        overloaded: the nearest configuration is beyond the target utilisation, or its queue
            is not stable: more accelerators are needed, whatever the targets.
        alternatives: other configurations of the Pareto front, up to 10, by cost and then by the
            time to the first token.
        front, infeasible: for plots, in the same order; `front` holds feasible points only.
        tried, possible: configurations predicted, and that exist.
        exhaustive: all were predicted.
        notes: what was left out, and why.
        digests: of the inputs, the catalogue and the model; equal digests, equal answer.
    """

    feasible: bool
    choice: Choice | None
    resources: Resources | None
    targets: tuple[Target, ...]
    binding: Name | None
    overloaded: bool
    alternatives: tuple[Choice, ...]
    front: tuple[Point, ...]
    infeasible: tuple[Point, ...]
    regret: Regret | None
    tried: int
    possible: int
    exhaustive: bool
    shortage: Shortage | None
    notes: tuple[str, ...]
    digests: Mapping[str, str]

    def endpoint_config(self) -> dict[str, object]:
        """Body for `PUT /api/endpoints/{id}/config`; empty when nothing fits."""
        if self.choice is None or self.resources is None:
            return {}
        return endpoint_config(self.choice.configuration, self.resources)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON; what is not finite becomes null."""
        fields = asdict(self) | {"endpoint_config": self.endpoint_config()}
        return {name: _plain(value) for name, value in fields.items()}


def endpoint_config(configuration: Configuration, resources: Resources) -> dict[str, object]:
    """The specification's endpoint fields; `resources` are per replica."""
    fields = asdict(configuration)
    fields.pop("gpu")
    return {**fields, "resources": asdict(resources)}


def advise_resources(spec: ModelSpec, configuration: Configuration) -> Resources:
    """Of one replica where there is enough: 4 + 2·tp cores, 1.2 times the weight files + 8 GB of
    host memory."""
    files = float(spec.checkpoint_bytes or 0)
    if not files or configuration.quantization != "none":
        files = spec.parameters * WEIGHT_BYTES[weight_format(spec, configuration.quantization)]
    tp = configuration.tensor_parallel_size
    return Resources(
        gpu_type=configuration.gpu,
        gpu_count=tp * configuration.pipeline_parallel_size,
        cpu_cores=4 + 2 * tp,
        memory_gb=math.ceil(1.2 * files / 1e9 + 8),
    )


def resources(spec: ModelSpec, configuration: Configuration, cluster: ClusterSpec) -> Resources:
    """Of one replica: what is advised, as far as the cluster's nodes have it.

    A full node is shared evenly. Predictions are of accelerators, so less of the host changes none
    of them; more than a node has is never placed.
    """
    advised = advise_resources(spec, configuration)
    groups = [group for group in cluster.groups if group.gpu == configuration.gpu]
    cores = [_share(group.cores_per_node, group, advised.gpu_count) for group in groups]
    memory = [_share(group.memory_gb_per_node, group, advised.gpu_count) for group in groups]
    return replace(
        advised,
        cpu_cores=min(advised.cpu_cores, max(cores, default=advised.cpu_cores)),
        memory_gb=min(advised.memory_gb, max(memory, default=advised.memory_gb)),
    )


def note_small_host(advised: Resources, given: Resources) -> tuple[str, ...]:
    """That the cluster's nodes have less than is advised."""
    if given == advised:
        return ()
    return (
        f"{advised.cpu_cores} cores and {advised.memory_gb} GB of host memory are advised for a "
        f"replica; the nodes here have {given.cpu_cores} and {given.memory_gb} GB for it: it is "
        "placed with that, and larger nodes would serve it better",
    )


def _share(of_node: float | None, group: NodeGroup, gpus: int) -> int:
    """Of a node's cores or memory, for one replica among as many as fill the node; whole, 1 at
    least."""
    if of_node is None:
        return _ENOUGH
    return max(int(of_node / max(group.gpus_per_node // gpus, 1)), 1)


def digest(spec: ModelSpec, request: Request) -> str:
    """sha256 of the question, hex. Whole numbers and floats of one value are the same question."""
    question = _plain({"spec": asdict(spec), "request": asdict(request)}, floats=True)
    return sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def _plain(value: object, *, floats: bool = False) -> object:
    """JSON types only."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, floats=floats) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, floats=floats) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if floats and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
