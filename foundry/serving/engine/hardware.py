"""The cluster that engines are to run on, as plain values."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from foundry.errors import Unavailable

# An idle Ray answers in milliseconds.
_ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class Node:
    """Resources of one machine, or of one replica on it.

    Attributes:
        cpus: in the scheduler's units.
        memory_gb: 10^9 bytes.
        gpus: accelerators.
    """

    cpus: float
    memory_gb: float
    gpus: float = 0.0

    def holds(self, need: "Node") -> int:
        """How many replicas of `need` fit."""
        pairs = (
            (self.cpus, need.cpus),
            (self.memory_gb, need.memory_gb),
            (self.gpus, need.gpus),
        )
        # Shares such as 0.1 do not add up exactly in binary.
        return min((int(have / want + 1e-9) for have, want in pairs if want > 0), default=0)


@dataclass(frozen=True, slots=True)
class Hardware:
    """A cluster as its scheduler sees it.

    Attributes:
        nodes: in total.
        free: of the same nodes, what nobody has taken.
        accelerators: from catalogue id to the scheduler's name.
        accelerator_memory: of one, by catalogue id; 10^9 bytes.
        without_bfloat16: catalogue ids of those that cannot compute in it.
        unknown_accelerators: there are some that the catalogue does not know.
        host_gb: memory of the largest machine, all of it that is not the system's; 10^9 bytes;
            None: unknown.
    """

    nodes: tuple[Node, ...]
    free: tuple[Node, ...] = ()
    accelerators: Mapping[str, str] = field(default_factory=dict)
    accelerator_memory: Mapping[str, float] = field(default_factory=dict)
    without_bfloat16: frozenset[str] = frozenset()
    unknown_accelerators: bool = False
    host_gb: float | None = None

    @property
    def on_cpu(self) -> bool:
        return all(node.gpus < 1 for node in self.nodes)

    def lacks_bfloat16(self, kinds: Iterable[str] | None = None) -> bool:
        """Whether none of these can compute in bfloat16; false where that is not known.

        Args:
            kinds: catalogue ids of accelerators; None: all that there are.
        """
        asked = set(self.accelerators if kinds is None else kinds)
        if self.on_cpu or self.unknown_accelerators or not asked:
            return False
        return asked <= self.without_bfloat16

    def accelerator_gb(self, kind: str | None) -> float | None:
        """Memory of one accelerator; None: unknown.

        Args:
            kind: its catalogue id; None: whichever has the most.
        """
        if kind is not None:
            return self.accelerator_memory.get(kind)
        if self.unknown_accelerators:
            return None
        return max(self.accelerator_memory.values(), default=None)


class LiveHardware(Protocol):
    async def read_hardware(self) -> Hardware:
        """Ask the cluster for its resources; raises Unavailable when it does not answer."""


async def ask_hardware(live: LiveHardware | None) -> Hardware | None:
    """What the cluster has; None: nobody knows, or it does not answer soon.

    Whoever checks a request asks so: a transaction is open meanwhile, and what is not known
    refuses nothing, for the queue and the supervisor look again.
    """
    if live is None:
        return None
    try:
        async with asyncio.timeout(_ASK_S):
            return await live.read_hardware()
    except (Unavailable, TimeoutError):
        return None
