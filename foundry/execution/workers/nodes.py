"""The cluster's nodes, as the process that is connected to it sees them."""

from ray._private.state import available_resources_per_node, total_resources_per_node

from foundry.execution.jobs.placement import Bundle, NodeResources


def list_nodes() -> list[NodeResources]:
    """Every living node; none while Ray starts. Blocks on Ray's control service."""
    totals, free = total_resources_per_node(), available_resources_per_node()
    return [
        NodeResources(_bundle(total), _bundle(free.get(node, {}))) for node, total in totals.items()
    ]


def _bundle(resources: dict[str, float]) -> Bundle:
    return Bundle(
        resources.get("CPU", 0.0), resources.get("GPU", 0.0), resources.get("memory", 0.0)
    )
