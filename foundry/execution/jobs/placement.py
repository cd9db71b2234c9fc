"""Which waiting jobs may begin: pure, on numbers that the supervisor collects.

Jobs are taken by priority, then age. One that does not fit keeps its place: what it needs is set
aside, so nothing smaller overtakes it for ever; one that asks for other resources still passes.
A job that no cluster of this size could hold sets nothing aside: it waits for a node.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self
from uuid import UUID

# On a node of so many CPUs or fewer, a lone training gets all of them; a larger one keeps one free
# for searches and drivers.
_SMALL_NODE_CPUS = 4.0
# Ray counts in ten-thousandths; sums of halves and thirds must not fail by rounding.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Bundle:
    """Resources that one worker takes from one node.

    Attributes:
        memory: bytes.
    """

    cpus: float = 0.0
    gpus: float = 0.0
    memory: float = 0.0

    def fits(self, free: "Bundle") -> bool:
        return (
            self.cpus <= free.cpus + _EPSILON
            and self.gpus <= free.gpus + _EPSILON
            and self.memory <= free.memory + _EPSILON
        )

    def minus(self, other: "Bundle") -> "Bundle":
        return Bundle(
            self.cpus - other.cpus, self.gpus - other.gpus, max(0.0, self.memory - other.memory)
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """What the workers of a job reserve.

    Attributes:
        cpus: of one worker; as many threads compute.
        accelerator: each wants a whole one, if the cluster has any at all.
    """

    workers: int = 1
    cpus: float = 1.0
    accelerator: bool = False
    memory: float = 0.0

    def document(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        return cls(**document)


@dataclass(frozen=True, slots=True)
class NodeResources:
    """One living node: all it has, and what no actor or task has reserved."""

    total: Bundle
    free: Bundle


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the queue.

    Attributes:
        waiting_for: what its row says at the moment.
    """

    id: UUID
    needs: Needs
    priority: int = 0
    waiting_for: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of the queue.

    Attributes:
        admitted: in order.
        waiting: what each of the others waits for, in words.
        oversized: those among them that no node could hold.
    """

    admitted: tuple[UUID, ...]
    waiting: Mapping[UUID, str]
    oversized: frozenset[UUID] = frozenset()


def place_jobs(
    queue: Sequence[Waiting], reserved: Iterable[Needs], nodes: Sequence[NodeResources]
) -> Decision:
    """Choose the jobs for whose workers there is room: those are admitted.

    Args:
        queue: by priority, then age.
        reserved: needs of admitted jobs whose workers do not show in `nodes` yet.
    """
    has_gpus = any(node.total.gpus >= 1 for node in nodes)
    free = [node.free for node in nodes]
    totals = [node.total for node in nodes]
    for needs in reserved:
        _set_aside(free, needs, has_gpus)
    admitted: list[UUID] = []
    waiting: dict[UUID, str] = {}
    oversized: set[UUID] = set()
    for job in queue:
        bundle = _make_bundle(job.needs, has_gpus)
        if _place_workers(totals, bundle, job.needs.workers) is None:
            waiting[job.id] = (
                f"a node: it needs {_describe_needs(job.needs, bundle)}, more than there is"
            )
            oversized.add(job.id)
            continue
        placed = _place_workers(free, bundle, job.needs.workers)
        if placed is None:
            waiting[job.id] = f"free resources: it needs {_describe_needs(job.needs, bundle)}"
            _set_aside(free, job.needs, has_gpus)
            continue
        free = placed
        admitted.append(job.id)
    return Decision(tuple(admitted), waiting, frozenset(oversized))


@dataclass(frozen=True, slots=True)
class Room:
    """How many of a job's workers a cluster has places for, were it idle.

    Attributes:
        workers: as many as fit, at most those that were asked for.
        each: what one worker takes, in words.
        there: what the cluster has, in words.
    """

    workers: int
    each: str
    there: str


def measure_room(needs: Needs, totals: Sequence[Bundle]) -> Room:
    """Count the workers of a job that nodes of these sizes hold."""
    has_gpus = any(node.gpus >= 1 for node in totals)
    bundle = _make_bundle(needs, has_gpus)
    left, workers = list(totals), 0
    while workers < needs.workers and (after := _place_workers(left, bundle, 1)) is not None:
        left, workers = after, workers + 1
    one = Needs(1, needs.cpus, needs.accelerator, needs.memory)
    return Room(workers, _describe_needs(one, bundle), _describe_nodes(totals, has_gpus))


@dataclass(frozen=True, slots=True)
class CpuShare:
    """What a worker without an accelerator takes of its node."""

    cpus: float
    threads: int


def share_of_node(needs: Needs, nodes: Sequence[NodeResources]) -> CpuShare:
    """All that is idle on the emptiest node, and at least what the job needs.

    Threads are what is reserved, so two jobs never compute on the same cores; a fraction of a core
    that idle services leave is rounded up.
    """
    node = max(nodes, key=lambda each: each.free.cpus, default=None)
    if node is None:
        return CpuShare(needs.cpus, max(1, math.ceil(needs.cpus)))
    spare = 1.0 if node.total.cpus > _SMALL_NODE_CPUS else 0.0
    idle = node.free.cpus - spare + _EPSILON
    threads = max(1, math.ceil(needs.cpus), math.ceil(idle - 2 * _EPSILON))
    return CpuShare(max(needs.cpus, float(math.floor(idle))), threads)


def _make_bundle(needs: Needs, has_gpus: bool) -> Bundle:
    gpus = 1.0 if needs.accelerator and has_gpus else 0.0
    return Bundle(needs.cpus, gpus, needs.memory)


def _place_workers(free: Sequence[Bundle], bundle: Bundle, workers: int) -> list[Bundle] | None:
    """What is left when every worker has its place; None: one has none."""
    left = list(free)
    for _ in range(workers):
        index = next((i for i, node in enumerate(left) if bundle.fits(node)), None)
        if index is None:
            return None
        left[index] = left[index].minus(bundle)
    return left


def _set_aside(free: list[Bundle], needs: Needs, has_gpus: bool) -> None:
    """Take a job's needs off, where they fit or else where most is free."""
    bundle = _make_bundle(needs, has_gpus)
    for _ in range(needs.workers if free else 0):
        index = next((i for i, node in enumerate(free) if bundle.fits(node)), None)
        if index is None:
            index = max(range(len(free)), key=lambda i: (free[i].gpus, free[i].cpus))
        free[index] = free[index].minus(bundle)


def _describe_nodes(totals: Sequence[Bundle], has_gpus: bool) -> str:
    nodes = f"{len(totals)} node" + ("s" if len(totals) != 1 else "")
    cpus, gpus = sum(node.cpus for node in totals), sum(node.gpus for node in totals)
    return f"{nodes} with {cpus:g} CPU" + (f" and {gpus:g} accelerators" if has_gpus else "")


def _describe_needs(needs: Needs, bundle: Bundle) -> str:
    parts = [f"{bundle.cpus:g} CPU"]
    if bundle.gpus:
        parts.append(f"{bundle.gpus:g} accelerator")
    if bundle.memory:
        parts.append(f"{bundle.memory / 2**30:.1f} GiB of memory")
    each = " and ".join(parts)
    return each if needs.workers == 1 else f"{needs.workers} workers with {each} each"
