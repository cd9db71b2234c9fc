"""Asks every node of the cluster what keeps it closed, by a task that runs there."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry.config import child_environment
from foundry.infra.node_hardening import find_weakness

# A node's first worker loads Foundry, which takes seconds; one that is lost takes Ray a minute.
_TIMEOUT_S = 120.0


def ask_nodes() -> dict[str, str | None]:
    """What is wrong with each living node of the cluster that this process belongs to."""
    living = [node for node in ray.nodes() if node["Alive"]]
    names = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in living}
    task = ray.remote(num_cpus=0, max_retries=0)(_find_weakness_here)
    asked = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote()
        for node in names
    }
    answered, _ = ray.wait(
        list(asked.values()), num_returns=len(asked), timeout=_TIMEOUT_S, fetch_local=False
    )
    return {
        f"{names[node]} ({node[:8]})": _answer_of(reference, reference in answered)
        for node, reference in asked.items()
    }


def _find_weakness_here() -> str | None:
    return find_weakness(child_environment())


def _answer_of(reference: object, answered: bool) -> str | None:
    if not answered:
        return f"it did not answer in {_TIMEOUT_S:.0f} s"
    try:
        found: str | None = ray.get(reference, timeout=_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        return (
            f"it could not be asked ({type(error).__name__}): is this checkout on its PYTHONPATH?"
        )
    return found
