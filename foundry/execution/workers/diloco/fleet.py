"""A fleet on a Ray cluster: one actor per accelerator or CPU, spread over the nodes.

`run_fleet` needs a cluster and a log, and no database: a bench passes a log in memory.

    result = await run_fleet(source, DilocoConfig(...), log)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError

from foundry.engines.training.diloco.config import DilocoConfig
from foundry.errors import EngineFailed, FoundryError, ResourceExhausted
from foundry.execution.jobs.domain import FLEET_WORKER_CPUS
from foundry.execution.workers.diloco.accounts import FleetResult, OnRound
from foundry.execution.workers.diloco.coordinator import Coordinator, Finish
from foundry.execution.workers.diloco.member import WorkloadSource
from foundry.execution.workers.diloco.messages import (
    CommitOrder,
    Committed,
    FleetProgress,
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
from foundry.execution.workers.diloco.parties import MemberHandle, RoundLog
from foundry.execution.workers.diloco.worker import STATUS_GROUP, DilocoWorker, Storage, Whereabouts
from foundry.execution.workers.messages import Publication, Published
from foundry.execution.workers.naming import ACTOR_NAMESPACE, actor_name
from foundry.execution.workers.ray_threads import call_ray, kill_actor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Placement:
    """What each worker reserves.

    Attributes:
        cpus: half of one, so that a fleet of CPU workers finds room beside an engine.
        gpus: unset: one, if the cluster has any.
        threads: for arithmetic; unset: a node's CPUs, shared out among its workers.
        resources: custom ones of Ray, such as a site's name.
        submission_id: of the attempt; its actors are named by it, so that none outlives it.
    """

    cpus: float = FLEET_WORKER_CPUS
    gpus: float | None = None
    threads: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    submission_id: str | None = None


async def run_fleet(
    source: WorkloadSource,
    config: DilocoConfig,
    log: RoundLog,
    *,
    on_progress: Callable[[FleetProgress], None] = lambda progress: None,
    on_round: OnRound = lambda record, metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
    storage: Storage | None = None,
    placement: Placement | None = None,
    finish: Finish | None = None,
) -> FleetResult:
    """Train on the cluster that this process is connected to; no actor is left behind.

    Args:
        on_progress: sees the fleet every second.
        on_round: sees each committed round, with numbers for charts.
        should_stop: asked at least once a second; the fleet is then checkpointed and ended.
        storage: of checkpoints; None: there are none.
        finish: called with a member that has the final state, before the fleet is ended.

    Raises:
        ResourceExhausted: no node could ever hold a worker.
        LeaseLost: another coordinator has taken over.
        EngineFailed: workers keep dying.
        InvalidRequest: the workload cannot be opened.
    """
    coordinator = Coordinator(
        config,
        await RaySpawner.create(source, config, storage, placement or Placement()),
        log,
        snapshots=storage.open() if storage else None,
        on_progress=on_progress,
        on_round=on_round,
        should_stop=should_stop,
    )
    return await coordinator.run(finish)


class RaySpawner:
    """Starts members as actors.

    Args:
        gpus: of each.
    """

    def __init__(
        self,
        source: WorkloadSource,
        config: DilocoConfig,
        storage: Storage | None,
        placement: Placement,
        gpus: float,
    ) -> None:
        self._arguments = (source, config, storage)
        self._workers = config.fleet.workers
        self._placement = placement
        options: dict[str, Any] = {
            "num_cpus": placement.cpus,
            "num_gpus": gpus,
            "resources": dict(placement.resources),
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {STATUS_GROUP: 2},
        }
        self._actor: Any = ray.remote(**options)(DilocoWorker)

    @classmethod
    async def create(
        cls,
        source: WorkloadSource,
        config: DilocoConfig,
        storage: Storage | None,
        placement: Placement,
    ) -> Self:
        """Look at what the cluster has.

        Raises:
            ResourceExhausted: no node could ever hold a worker.
            Unavailable: Ray does not answer.
        """
        resources: dict[str, float] = await call_ray(ray.cluster_resources)
        if resources.get("CPU", 0) < placement.cpus:
            raise ResourceExhausted("the cluster has no CPU for a worker: add a node")
        gpus = placement.gpus
        if gpus is None:
            gpus = 1 if resources.get("GPU", 0) >= 1 else 0
        return cls(source, config, storage, placement, gpus)

    async def spawn(self, name: str) -> MemberHandle:
        source, config, storage = self._arguments
        actor_type = self._actor
        if (attempt := self._placement.submission_id) is not None:
            # A member that replaces a lost one may meet its name.
            role = f"{name}-{uuid4().hex[:8]}"
            actor_type = actor_type.options(
                name=actor_name(attempt, role), namespace=ACTOR_NAMESPACE
            )
        actor = await call_ray(lambda: actor_type.remote(name, source, config, storage))
        try:
            where = await _answer(name, actor.whereabouts.remote())
        except BaseException:
            # Also when the fleet is ended while this one still waits for room.
            kill_actor(actor)
            raise
        return RayMember(name, actor, where, await self._count_threads(where.node_id))

    async def _count_threads(self, node_id: str) -> int:
        if self._placement.threads is not None:
            return self._placement.threads
        nodes = await call_ray(ray.nodes)
        cpus: dict[str, float] = {
            node["NodeID"]: node["Resources"].get("CPU", 0) for node in nodes if node["Alive"]
        }
        holding = sum(count >= self._placement.cpus for count in cpus.values())
        per_node = math.ceil(self._workers / max(1, holding))
        there = int(cpus.get(node_id, 1))
        return max(1, there // per_node)


class RayMember:
    """An actor handle as the coordinator sees it."""

    def __init__(self, name: str, actor: Any, where: Whereabouts, threads: int) -> None:
        self.name = name
        self.node = where.node_id
        self.pid = where.pid
        self._actor = actor
        self._threads = threads

    async def prepare(self) -> Ready:
        answer: Ready = await self._ask(self._actor.prepare, self._threads)
        return answer

    async def standing(self) -> Ready:
        answer: Ready = await self._ask(self._actor.standing)
        return answer

    async def status(self) -> Status:
        answer: Status = await self._ask(self._actor.status)
        return answer

    async def train(self, plan: RoundPlan) -> Offer:
        answer: Offer = await self._ask(self._actor.train, plan)
        return answer

    async def halt(self) -> None:
        await self._ask(self._actor.halt)

    async def share(self, reduction: Reduction) -> tuple[Parcel, ...] | Vote:
        answer: tuple[Parcel, ...] | Vote = await self._ask(self._actor.share, reduction)
        return answer

    async def reduce(self, reduction: Reduction, forwarded: tuple[Parcel, ...] | None) -> Vote:
        answer: Vote = await self._ask(self._actor.reduce, reduction, forwarded)
        return answer

    async def abandon(self) -> None:
        await self._ask(self._actor.abandon)

    async def commit(self, order: CommitOrder) -> Committed:
        answer: Committed = await self._ask(self._actor.commit, order)
        return answer

    async def lend(self) -> Loan:
        answer: Loan = await self._ask(self._actor.lend)
        return answer

    async def heal(self, loan: Loan, *, keep_work: bool = False) -> Ready:
        answer: Ready = await self._ask(self._actor.heal, loan, keep_work=keep_work)
        return answer

    async def snapshot(self, with_global: bool) -> Snapshot:
        answer: Snapshot = await self._ask(self._actor.snapshot, with_global)
        return answer

    async def restore(self, snapshot: Snapshot) -> Resumed:
        answer: Resumed = await self._ask(self._actor.restore, snapshot)
        return answer

    async def publish(self, publication: Publication, history: Mapping[str, Any]) -> Published:
        answer: Published = await self._ask(self._actor.publish, publication, history)
        return answer

    def kill(self) -> None:
        kill_actor(self._actor)

    # Ray's handles are untyped: what a method of the actor returns, the caller knows.
    async def _ask(self, method: Any, *arguments: object, **more: object) -> Any:
        return await _answer(self.name, method.remote(*arguments, **more))


async def _answer(name: str, reference: Any) -> Any:
    try:
        return await reference
    except RayTaskError as error:
        if isinstance(error.cause, FoundryError):
            raise error.cause from error
        raise EngineFailed(f"{name}: {error}") from error
    except RayError as error:
        raise EngineFailed(f"{name} died: {error}") from error
