"""The garbage collector's share of the supervisor: each node in turn."""

import logging
from collections.abc import Collection
from typing import Protocol
from uuid import UUID

from foundry.errors import Unavailable
from foundry.execution.jobs.retention import list_active_ids
from foundry.infra.database import Database

log = logging.getLogger(__name__)


class NodeCleaner(Protocol):
    """The cluster's nodes. Every call has a deadline."""

    async def list_nodes(self) -> list[str]:
        """Ids of the living ones. Raises Unavailable."""

    async def clean(self, node: str, active: Collection[UUID]) -> list[str]:
        """Remove there what nobody needs; see `clean_node`.

        Raises:
            Unavailable: the node is frozen or lost; nothing of the call runs on.
        """


class NodeCollector:
    """Cleans every node; one that does not answer keeps no other from being cleaned."""

    def __init__(self, database: Database, nodes: NodeCleaner) -> None:
        self._database = database
        self._nodes = nodes

    async def clean_nodes(self) -> None:
        """One turn.

        Raises:
            Unavailable: some nodes were not cleaned; the next turn tries again.
        """
        active = await list_active_ids(self._database)
        left = []
        for node in await self._nodes.list_nodes():
            try:
                removed = await self._nodes.clean(node, active)
            except Unavailable as error:
                log.warning("node %s was not cleaned: %s", node, error.message)
                left.append(node)
                continue
            if removed:
                log.info("removed from node %s: %s", node, ", ".join(removed))
        if left:
            raise Unavailable(f"nodes that were not cleaned: {', '.join(left)}")
