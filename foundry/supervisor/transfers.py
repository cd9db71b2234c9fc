"""Fetches a model's files to the nodes before an engine needs them there.

One task a node fills the node's weight cache; an engine that starts finds the files. How far a task
is, another one reads from the cache's folder.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry.catalog.registry.service import load_manifest
from foundry.config import load_settings
from foundry.errors import FoundryError
from foundry.infra.wiring import cache_dir, open_database, open_weights
from foundry.supervisor.ports import Transfer
from foundry.supervisor.ray_calls import RayCalls

# What an engine fetches by itself where Ray places it elsewhere.
_MAX_NODES = 16
# An endpoint that is fetched for asks every second or so.
_FORGOTTEN_S = 60.0
# Holds nothing: the engine's share of the node is reserved by its replica.
_OPTIONS: dict[str, Any] = {"num_cpus": 0, "max_retries": 2}


class Transfers(Protocol):
    """Fetching of models' files to the nodes."""

    async def continue_fetch(self, version_id: UUID, nodes: int) -> Transfer:
        """Begin the fetching, or say how far it is. Raises FoundryError: it cannot succeed."""


@dataclass(slots=True)
class _Fetch:
    """The fetching of one version.

    Attributes:
        tasks: one a node.
        measured: the tasks that last read the progress.
        looked_at: when somebody last asked how far it is.
    """

    tasks: list[Any]
    nodes: list[str]
    measured: list[Any]
    looked_at: float
    bytes_done: int = 0
    bytes_total: int = 0


class RayTransfers:
    """Implements `Transfers`. A new supervisor starts new tasks, which find what is there."""

    def __init__(self, calls: RayCalls, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._clock = clock
        self._fetches: dict[UUID, _Fetch] = {}

    async def continue_fetch(self, version_id: UUID, nodes: int) -> Transfer:
        """Begin the fetching, or say how far it is.

        Raises:
            Unavailable: Ray does not answer.
            FoundryError: what a task met.
        """
        fault: list[FoundryError] = []

        def look() -> Transfer:
            now = self._clock()
            self._drop_forgotten(now)
            fetch = self._fetches.get(version_id)
            if fetch is None:
                fetch = self._fetches[version_id] = _begin(version_id, nodes, now)
            fetch.looked_at = now
            try:
                return self._progress(version_id, fetch)
            except RayError as error:
                # A worker or node that died ends its task as well: the next look begins anew.
                self._fetches.pop(version_id, None)
                if isinstance(error, RayTaskError) and isinstance(error.cause, FoundryError):
                    fault.append(error.cause)
                    return Transfer(done=False)
                raise

        found = await self._calls.run(look)
        if fault:
            raise fault[0]
        return found

    def _drop_forgotten(self, now: float) -> None:
        """End what nobody waits for any more: its error would be another deploy's, much later."""
        for version_id, fetch in list(self._fetches.items()):
            if now - fetch.looked_at > _FORGOTTEN_S:
                del self._fetches[version_id]
                for task in fetch.tasks:
                    ray.cancel(task, force=True)

    def _progress(self, version_id: UUID, fetch: _Fetch) -> Transfer:
        done, waiting = ray.wait(fetch.tasks, num_returns=len(fetch.tasks), timeout=0.5)
        ray.get(done)
        if not waiting:
            del self._fetches[version_id]
            return Transfer(done=True)
        measured, _ = ray.wait(fetch.measured, num_returns=len(fetch.measured), timeout=0)
        if len(measured) == len(fetch.measured):
            sizes = ray.get(measured)
            fetch.bytes_done = sum(size for size, _ in sizes) or fetch.bytes_done
            fetch.bytes_total = sum(total for _, total in sizes) or fetch.bytes_total
            fetch.measured = _on_each(fetch.nodes, measure_weights, version_id)
        return Transfer(done=False, bytes_done=fetch.bytes_done, bytes_total=fetch.bytes_total)


def _begin(version_id: UUID, wanted: int, now: float) -> _Fetch:
    alive = [node for node in ray.nodes() if node["Alive"]]
    # Nodes with accelerators first: that is where engines go.
    alive.sort(key=lambda node: -node["Resources"].get("GPU", 0.0))
    nodes = [node["NodeID"] for node in alive[: min(wanted, _MAX_NODES)]]
    return _Fetch(_on_each(nodes, fetch_weights, version_id), nodes, [], now)


def _on_each(nodes: list[str], task: Callable[[str], object], version_id: UUID) -> list[Any]:
    return [
        ray.remote(**_OPTIONS, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True))(
            task
        ).remote(str(version_id))
        for node in nodes
    ]


def fetch_weights(version_id: str) -> None:
    """Fill the weight cache of the node that this runs on."""

    async def fetch() -> None:
        settings = load_settings()
        async with open_database(settings) as database:
            manifest = await load_manifest(database, UUID(version_id))
            await open_weights(settings).ensure(manifest.digest, manifest.files)

    asyncio.run(fetch())


def measure_weights(version_id: str) -> tuple[int, int]:
    """Bytes that are here, and bytes there are to be."""

    async def measure() -> tuple[int, int]:
        settings = load_settings()
        async with open_database(settings) as database:
            manifest = await load_manifest(database, UUID(version_id))
        here = 0
        for folder in (manifest.digest, f".{manifest.digest}.partial"):
            for path in (cache_dir(settings) / folder).rglob("*"):
                here += path.stat().st_size if path.is_file() else 0
        return here, sum(file.size for file in manifest.files)

    return asyncio.run(measure())
