"""The nodes of this Ray cluster, as questions about it see them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry.engines.budsim.catalogue import Gpu
from foundry.engines.budsim.probe import probe_cpu
from foundry.engines.budsim.request import ClusterSpec, NodeGroup
from foundry.errors import InvalidRequest, Unavailable
from foundry.execution.workers.ray_threads import call_ray

TYPE_PREFIX = "accelerator_type:"
_DEVICES = {"GPU", "HPU", "NPU", "TPU"}
# Ray gives a task one thread; the engine takes every core.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PROBE_S, _PROBE_TIMEOUT_S = 2.0, 60.0


class RayCluster:
    """Implements the control plane's `LiveCluster`: the nodes of this Ray cluster."""

    async def describe(self) -> ClusterSpec:
        return await call_ray(_describe_cluster)

    async def probe_cpu(self) -> Gpu:
        """On a node without accelerators, with all its cores; one that computes measures less."""
        threads = dict.fromkeys(_THREADS, str(await call_ray(_count_cores)))
        options: dict[str, Any] = {
            "num_cpus": 0,
            "max_retries": 0,
            "runtime_env": {"env_vars": threads},
            "scheduling_strategy": await call_ray(_on_cpu_node),
        }
        task = await call_ray(lambda: ray.remote(**options)(probe_cpu).remote(_PROBE_S))
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                found: Gpu = await task
        except (TimeoutError, RayError) as error:
            ray.cancel(task)
            raise Unavailable("no node could be measured: `foundry budsim probe` again") from error
        return found


def map_accelerators(resources: Mapping[str, float]) -> dict[str, str]:
    """From catalogue id to Ray's accelerator type, of the cluster's resources."""
    from foundry.engines.budsim.catalogue import Catalogue

    catalogue = Catalogue.shipped()
    types = [name.removeprefix(TYPE_PREFIX) for name in resources if name.startswith(TYPE_PREFIX)]
    return {catalogue.gpu(kind).id: kind for kind in types if kind in catalogue}


def _cpu_nodes() -> list[dict[str, Any]]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [node for node in nodes if not _DEVICES & node["Resources"].keys()] or nodes


def _count_cores() -> int:
    return int(min(node["Resources"].get("CPU", 1.0) for node in _cpu_nodes()))


def _on_cpu_node() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(_cpu_nodes()[0]["NodeID"], soft=True)


def _describe_cluster() -> ClusterSpec:
    from foundry.engines.budsim.catalogue import Catalogue
    from foundry.engines.budsim.discovery import cluster_spec

    found = cluster_spec(ray.nodes(), Catalogue.shipped(), free=available_resources_per_node())
    if not found.groups:
        raise InvalidRequest(
            "cluster: no node here has a known accelerator: name the node groups", param="cluster"
        )
    return one_group_each(found)


def one_group_each(found: ClusterSpec) -> ClusterSpec:
    """Keep one group for each kind of accelerator.

    Of nodes that are used in part only the largest equal group: a question names each kind of
    accelerator once.
    """
    largest: dict[str, NodeGroup] = {}
    for group in found.groups:
        kept = largest.setdefault(group.gpu, group)
        if group.available_gpus > kept.available_gpus:
            largest[group.gpu] = group
    return ClusterSpec(tuple(largest.values()))
