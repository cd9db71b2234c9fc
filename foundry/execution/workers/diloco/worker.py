"""The actor around a member: a shell that answers pings on a thread of its own."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray

from foundry.catalog.registry.files import FLEET_HISTORY
from foundry.config import Settings
from foundry.engines.training.diloco.config import DilocoConfig
from foundry.engines.training.files import write_json
from foundry.errors import Conflict, EngineFailed, Unavailable
from foundry.execution.workers.diloco.member import Member, WorkloadSource
from foundry.execution.workers.diloco.messages import (
    CommitOrder,
    Committed,
    Loan,
    Offer,
    Parcel,
    Ready,
    Reduction,
    Resumed,
    RoundPlan,
    Snapshot,
    Status,
    Vote,
)
from foundry.execution.workers.diloco.snapshots import Snapshots
from foundry.execution.workers.diloco.transport import Courier, TokenBucket
from foundry.execution.workers.directories import attempt_directory
from foundry.execution.workers.messages import Publication, Published
from foundry.execution.workers.publishing import publish
from foundry.infra.wiring import open_database, open_objects

STATUS_GROUP = "status"
_BYTES_PER_MBIT = 125_000


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a fleet's checkpoints go.

    Attributes:
        prefix: of all keys, such as the job's.
    """

    settings: Settings
    prefix: str

    def open(self) -> Snapshots:
        return Snapshots(open_objects(self.settings), self.prefix)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an actor runs."""

    node_id: str
    pid: int


class RayWire:
    """Chunks in Ray's object store: a receiver's node fetches them from the owner's."""

    def put(self, chunk: bytes) -> Any:
        return ray.put(chunk)

    async def get(self, address: Any) -> bytes:
        try:
            chunk: bytes = await address
        except ray.exceptions.RayError as error:
            raise Unavailable(f"a chunk is gone with its owner: {error}") from error
        return chunk


class DilocoWorker:
    """One per accelerator. All methods but `status` share an event loop."""

    def __init__(
        self, name: str, source: WorkloadSource, config: DilocoConfig, storage: Storage | None
    ) -> None:
        self._name = name
        self._source = source
        self._config = config
        self._storage = storage
        self._started: Member | None = None

    async def whereabouts(self) -> Whereabouts:
        return Whereabouts(ray.get_runtime_context().get_node_id(), os.getpid())

    @ray.method(concurrency_group=STATUS_GROUP)  # type: ignore[untyped-decorator]
    async def status(self) -> Status:
        return Status() if self._started is None else self._started.status()

    async def prepare(self, threads: int) -> Ready:
        link = self._config.fleet.link_mbit_s
        self._started = Member(
            self._name,
            self._source,
            self._config,
            Courier(RayWire(), TokenBucket(link * _BYTES_PER_MBIT if link else None)),
            threads=threads,
            snapshots=await asyncio.to_thread(self._storage.open) if self._storage else None,
        )
        return await self._started.prepare()

    async def standing(self) -> Ready:
        return await self._member.standing()

    async def train(self, plan: RoundPlan) -> Offer:
        return await self._member.train(plan)

    async def halt(self) -> None:
        await self._member.halt()

    async def share(self, reduction: Reduction) -> tuple[Parcel, ...] | Vote:
        return await self._member.share(reduction)

    async def reduce(self, reduction: Reduction, forwarded: tuple[Parcel, ...] | None) -> Vote:
        return await self._member.reduce(reduction, forwarded)

    async def abandon(self) -> None:
        await self._member.abandon()

    async def commit(self, order: CommitOrder) -> Committed:
        return await self._member.commit(order)

    async def lend(self) -> Loan:
        return await self._member.lend()

    async def heal(self, loan: Loan, *, keep_work: bool) -> Ready:
        return await self._member.heal(loan, keep_work=keep_work)

    async def snapshot(self, with_global: bool) -> Snapshot:
        return await self._member.snapshot(with_global)

    async def restore(self, snapshot: Snapshot) -> Resumed:
        return await self._member.restore(snapshot)

    async def publish(self, publication: Publication, history: Mapping[str, Any]) -> Published:
        """Register the outer parameters, from this node."""
        if self._storage is None:
            raise Conflict("this fleet was started without a registry to publish to")
        settings = self._storage.settings
        directory = attempt_directory(settings.home, publication.job_id, publication.fence)
        directory = directory / "result"
        await self._member.finish(lambda workload: workload.export(directory))
        await asyncio.to_thread(write_json, directory / FLEET_HISTORY, history)
        async with open_database(settings) as database:
            return await publish(database, open_objects(settings), publication, directory)

    @property
    def _member(self) -> Member:
        if self._started is None:
            raise EngineFailed(f"{self._name} has not been prepared")
        return self._started
