"""Searches for configurations as Ray tasks: one per island, and one that merges their fronts.

Pure functions of the question: a task that dies is run again. None holds an accelerator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry.config import load_settings
from foundry.engines.budsim.catalogue import Gpu
from foundry.engines.budsim.probe import probe_cpu
from foundry.engines.budsim.request import ClusterSpec, NodeGroup
from foundry.errors import EngineFailed, FoundryError, InvalidRequest, Unavailable
from foundry.infra.wiring import open_objects
from foundry.serving.recommendations import numerics, trained
from foundry.serving.recommendations.domain import Question

TYPE_PREFIX = "accelerator_type:"
_DEVICES = {"GPU", "HPU", "NPU", "TPU"}
# Ray gives a task one thread; the engine takes every core.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PROBE_S, _PROBE_TIMEOUT_S = 2.0, 60.0

# A cluster without the extra `budsim` starts as well, and says so when it is asked.
if TYPE_CHECKING:
    from foundry.engines.budsim.search.archive import Archive
    from foundry.engines.budsim.search.genome import Island


def archive(question: Question, island: Island) -> Archive:
    """What one kind of GPU under one runtime can do."""
    from foundry.engines.budsim.search.recommend import search_island

    _load_model(question)
    spec, facts = numerics.spec_of(question), numerics.facts_of(question)
    return search_island(spec, question.request, island, **facts)


def answer(question: Question, *archives: Archive) -> dict[str, object]:
    """The recommendation of all islands together, as plain JSON values."""
    from foundry.engines.budsim.search.recommend import merge

    _load_model(question)
    spec, facts = numerics.spec_of(question), numerics.facts_of(question)
    found = merge(spec, question.request, archives, **facts)
    return numerics.explain_recommendation(question, spec, found, facts)


def _load_model(question: Question) -> None:
    """The predictor of the question, once per worker process: by digest from the object store."""
    if question.learnt is not None and question.learnt.model is not None:
        asyncio.run(trained.ensure_model(open_objects(load_settings()), question.learnt))


class RaySearcher:
    """Implements the control plane's `Searcher` on the cluster that this process is part of."""

    async def recommend(self, question: Question) -> dict[str, object]:
        numerics.require_libraries()
        from foundry.engines.budsim.search.genome import islands

        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 2}
        search = ray.remote(**options)(archive)
        parts = [search.remote(question, island) for island in islands(question.request)]
        merged = ray.remote(**options)(answer).remote(question, *parts)
        try:
            found: dict[str, object] = await merged
        except RayTaskError as error:
            if isinstance(error.cause, FoundryError):
                raise error.cause from error
            raise
        except RayError as error:
            raise EngineFailed(
                "the search died on the cluster: ask again; see `foundry logs`"
            ) from error
        except asyncio.CancelledError:
            for reference in (*parts, merged):
                ray.cancel(reference)
            raise
        return found


class RayCluster:
    """Implements the control plane's `LiveCluster`: the nodes of this Ray cluster."""

    async def describe(self) -> ClusterSpec:
        return await asyncio.to_thread(_described)

    async def probe_cpu(self) -> Gpu:
        """On a node without accelerators, with all its cores; one that computes measures less."""
        threads = dict.fromkeys(_THREADS, str(await asyncio.to_thread(_cores)))
        options: dict[str, Any] = {
            "num_cpus": 0,
            "max_retries": 0,
            "runtime_env": {"env_vars": threads},
            "scheduling_strategy": await asyncio.to_thread(_on_cpu_node),
        }
        task = ray.remote(**options)(probe_cpu).remote(_PROBE_S)
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                found: Gpu = await task
        except (TimeoutError, RayError) as error:
            ray.cancel(task)
            raise Unavailable("no node could be measured: `foundry budsim probe` again") from error
        return found


def accelerators(resources: Mapping[str, float]) -> dict[str, str]:
    """From catalogue id to Ray's accelerator type, of the cluster's resources."""
    from foundry.engines.budsim.catalogue import Catalogue

    catalogue = Catalogue.shipped()
    types = [name.removeprefix(TYPE_PREFIX) for name in resources if name.startswith(TYPE_PREFIX)]
    return {catalogue.gpu(kind).id: kind for kind in types if kind in catalogue}


def _cpu_nodes() -> list[dict[str, Any]]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [node for node in nodes if not _DEVICES & node["Resources"].keys()] or nodes


def _cores() -> int:
    return int(min(node["Resources"].get("CPU", 1.0) for node in _cpu_nodes()))


def _on_cpu_node() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(_cpu_nodes()[0]["NodeID"], soft=True)


def _described() -> ClusterSpec:
    from foundry.engines.budsim.catalogue import Catalogue
    from foundry.engines.budsim.discovery import cluster_spec

    found = cluster_spec(ray.nodes(), Catalogue.shipped(), free=available_resources_per_node())
    if not found.groups:
        raise InvalidRequest(
            "cluster: no node here has a known accelerator: name the node groups", param="cluster"
        )
    return one_group_each(found)


def one_group_each(found: ClusterSpec) -> ClusterSpec:
    """Of nodes that are used in part only the largest equal group: a question names each kind of
    accelerator once."""
    largest: dict[str, NodeGroup] = {}
    for group in found.groups:
        kept = largest.setdefault(group.gpu, group)
        if group.available_gpus > kept.available_gpus:
            largest[group.gpu] = group
    return ClusterSpec(tuple(largest.values()))
