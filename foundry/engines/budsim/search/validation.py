"""Questions that have no answer are refused with what to change."""

import math
from collections import Counter

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.request import (
    KV_DTYPES,
    QUANTIZATIONS,
    RUNTIMES,
    ClusterSpec,
    Lengths,
    NodeGroup,
    Policy,
    Request,
    Workload,
)
from foundry.engines.budsim.search.targets import NAMES
from foundry.errors import InvalidRequest


def validate(spec: ModelSpec, request: Request, catalogue: Catalogue) -> int:
    """Checks a question; tokens that one request may hold (`max_model_len`).

    Raises:
        InvalidRequest: names the field and what to do.
    """
    validate_request(request, catalogue)
    return model_length(spec, request.workload, request.policy.max_model_len)


def validate_request(request: Request, catalogue: Catalogue) -> None:
    """All of a question that the model has no part in. Raises InvalidRequest."""
    validate_cluster(request.cluster, catalogue)
    validate_workload(request.workload)
    for name in NAMES:
        value = getattr(request.targets, name)
        if value is not None:
            _positive(f"targets.{name}", value, "leave it out for no bound")
    _policy(request.policy)


def validate_cluster(cluster: ClusterSpec, catalogue: Catalogue) -> None:
    """At least one free accelerator that is known and priced; equal nodes in one group."""
    if not cluster.groups:
        raise InvalidRequest("cluster.groups is empty: give at least one node group")
    for group in cluster.groups:
        _group(group, catalogue)
    kinds = Counter((group.gpu, group.gpus_per_node) for group in cluster.groups)
    (gpu, size), times = kinds.most_common(1)[0]
    if times > 1:
        raise InvalidRequest(
            f"cluster.groups names nodes of {size} {gpu} {times} times: merge them into one group"
        )
    for gpu in {group.gpu for group in cluster.groups}:
        _equal([group for group in cluster.groups if group.gpu == gpu])
    if not any(group.available_gpus for group in cluster.groups):
        raise InvalidRequest(
            "no accelerator is free: stop a deployment, add nodes or raise free_gpus"
        )
    if not any(_priced(group, catalogue) for group in cluster.groups if group.available_gpus):
        names = ", ".join(sorted({group.gpu for group in cluster.groups}))
        raise InvalidRequest(f"no accelerator has a price: set price_per_gpu_hour of {names}")


def _priced(group: NodeGroup, catalogue: Catalogue) -> bool:
    own = group.price_per_gpu_hour is not None
    return own or catalogue.gpu(group.gpu).price_per_hour is not None


def _equal(groups: list[NodeGroup]) -> None:
    """A configuration names its accelerator, not its group: groups of one kind cost the same."""
    if len({(group.price_per_gpu_hour, group.network_gbps) for group in groups}) > 1:
        raise InvalidRequest(
            f"cluster.groups: {groups[0].gpu} has several prices or networks; give one of each"
        )


def _group(group: NodeGroup, catalogue: Catalogue) -> None:
    catalogue.gpu(group.gpu)
    for name in ("gpus_per_node", "nodes"):
        if getattr(group, name) < 1:
            raise InvalidRequest(f"{group.gpu}: {name} is {getattr(group, name)}; give at least 1")
    if group.free_gpus is not None and group.free_gpus < 0:
        raise InvalidRequest(f"{group.gpu}: free_gpus is {group.free_gpus}; give 0 or more")
    _positive(f"{group.gpu}: network_gbps", group.network_gbps, "GB/s between nodes")
    if group.price_per_gpu_hour is not None:
        _positive(f"{group.gpu}: price_per_gpu_hour", group.price_per_gpu_hour, "in $")


def validate_workload(workload: Workload) -> None:
    """Either users or a rate, positive lengths."""
    if (workload.users is None) == (workload.rate is None):
        raise InvalidRequest("workload: give either users or rate")
    if workload.users is not None:
        _positive("workload.users", workload.users, "requests in flight")
    if workload.rate is not None:
        _positive("workload.rate", workload.rate, "requests per second")
    if not 0.0 <= workload.arrival_scv < math.inf:
        raise InvalidRequest(f"workload.arrival_scv is {workload.arrival_scv}: give 0 or more")
    if not 0.0 <= workload.prefix_share < 1.0:
        raise InvalidRequest(
            f"workload.prefix_share is {workload.prefix_share}: give a share from 0 to below 1"
        )
    _lengths("workload.input", workload.input)
    _lengths("workload.output", workload.output)


def model_length(spec: ModelSpec, workload: Workload, asked: int | None) -> int:
    """What the policy asks for, else the power of two that holds the workload's p95.

    Raises:
        InvalidRequest: the model or the asked length is too short for the workload.
    """
    need = math.ceil(workload.input.p95 + workload.output.p95)
    if need > spec.max_length:
        raise InvalidRequest(
            f"requests of {need} tokens (p95) exceed the model's {spec.max_length}: shorten them "
            "or choose a model with a longer context"
        )
    if asked is None:
        return min(1 << (need - 1).bit_length(), spec.max_length)
    if not need <= asked <= spec.max_length:
        raise InvalidRequest(
            f"policy.max_model_len is {asked}: give {need} (the workload's p95) to "
            f"{spec.max_length} (the model's length)"
        )
    return asked


def _lengths(name: str, lengths: Lengths) -> None:
    for part in ("mean", "p50", "p95"):
        value = getattr(lengths, part)
        if not 1.0 <= value < math.inf:
            raise InvalidRequest(f"{name}.{part} is {value}: give at least 1 token")
    if lengths.p50 > lengths.p95:
        raise InvalidRequest(f"{name}: p50 is above p95; give p50 ≤ p95")


def _policy(policy: Policy) -> None:
    names = {
        "runtimes": (policy.runtimes, RUNTIMES),
        "quantizations": (policy.quantizations, QUANTIZATIONS),
        "kv_dtypes": (policy.kv_dtypes, KV_DTYPES),
        "objectives": (policy.objectives, ("cost", "ttft", "throughput")),
    }
    for name, (given, known) in names.items():
        if not given or len(set(given)) < len(given) or not set(given) <= set(known):
            raise InvalidRequest(
                f"policy.{name}: give one or more of {', '.join(known)}, each once"
            )
    if not 1 <= policy.min_replicas <= policy.max_replicas:
        raise InvalidRequest(
            f"policy: min_replicas {policy.min_replicas} and max_replicas {policy.max_replicas}; "
            "give 1 ≤ min_replicas ≤ max_replicas"
        )
    if not 0.5 <= policy.confidence <= 0.99:
        raise InvalidRequest(f"policy.confidence is {policy.confidence}: give 0.5 to 0.99")
    if not 0.02 <= policy.memory_headroom <= 0.5:
        raise InvalidRequest(
            f"policy.memory_headroom is {policy.memory_headroom}: give 0.02 to 0.5, best 0.1 to 0.2"
        )


def _positive(name: str, value: float, hint: str) -> None:
    if not 0.0 < value < math.inf:
        raise InvalidRequest(f"{name} is {value}: give a positive number ({hint})")
