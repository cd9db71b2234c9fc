"""Cleans every node of the cluster, sixteen at a time."""

import asyncio
import logging
from collections.abc import Collection
from typing import Protocol
from uuid import UUID

from foundry.errors import Unavailable
from foundry.execution.jobs.retention import list_active_ids
from foundry.infra.database import Database

# Frozen nodes hold a place for two minutes each.
_AT_ONCE = 16

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
        slots = asyncio.Semaphore(_AT_ONCE)

        async def clean(node: str) -> str | None:
            async with slots:
                return None if await self._clean_node(node, active) else node

        nodes = await self._nodes.list_nodes()
        left = [node for node in await asyncio.gather(*map(clean, nodes)) if node is not None]
        if left:
            raise Unavailable(f"nodes that were not cleaned: {', '.join(left)}")

    async def _clean_node(self, node: str, active: Collection[UUID]) -> bool:
        try:
            removed = await self._nodes.clean(node, active)
        except Unavailable as error:
            log.warning("node %s was not cleaned: %s", node, error.message)
            return False
        if removed:
            log.info("removed from node %s: %s", node, ", ".join(removed))
        return True
