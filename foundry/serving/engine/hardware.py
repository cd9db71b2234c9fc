"""The cluster that engines are to run on, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


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
    """

    nodes: tuple[Node, ...]
    free: tuple[Node, ...] = ()
    accelerators: Mapping[str, str] = field(default_factory=dict)

    @property
    def on_cpu(self) -> bool:
        return all(node.gpus < 1 for node in self.nodes)


class LiveHardware(Protocol):
    async def read_hardware(self) -> Hardware:
        """Ask the cluster for its resources; raises Unavailable when it does not answer."""
