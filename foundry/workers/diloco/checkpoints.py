"""Which checkpoint of a fleet there is, and which of its files may go."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from foundry.training.diloco.ledger import Ledger, Shard
from foundry.workers.diloco.messages import Snapshot, StoredState
from foundry.workers.diloco.snapshots import Snapshots

_KEPT = 2


@dataclass(frozen=True, slots=True)
class FleetState:
    """A checkpoint as a round's row refers to it.

    Attributes:
        shared: outer parameters and momentum.
        members: everybody else's state.
        next_number: of the next new member.
    """

    ledger: Ledger
    shared: StoredState
    members: Mapping[str, StoredState]
    next_number: int

    @classmethod
    def of(cls, ledger: Ledger, snapshots: Mapping[str, Snapshot], next_number: int) -> Self | None:
        """None: nobody has kept the shared state."""
        shared = [snapshot.shared for snapshot in snapshots.values() if snapshot.shared]
        if not shared:
            return None
        members = {name: snapshot.own for name, snapshot in snapshots.items()}
        return cls(ledger, shared[0], members, next_number)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            read_ledger(document["ledger"]),
            StoredState(**document["shared"]),
            {name: StoredState(**stored) for name, stored in document["members"].items()},
            document["next_number"],
        )

    def document(self) -> dict[str, Any]:
        return {
            "ledger": ledger_document(self.ledger),
            "shared": asdict(self.shared),
            "members": {name: asdict(stored) for name, stored in self.members.items()},
            "next_number": self.next_number,
        }

    @property
    def snapshots(self) -> dict[str, Snapshot]:
        return {name: Snapshot(own, self.shared) for name, own in self.members.items()}

    @property
    def files(self) -> set[StoredState]:
        return {self.shared, *self.members.values()}


class Checkpoints:
    """The newest checkpoints; older ones' files are removed."""

    def __init__(self, store: Snapshots) -> None:
        self._store = store
        self._states: list[FleetState] = []

    async def add(self, state: FleetState) -> None:
        """Call it once the row refers to `state`."""
        self._states.append(state)
        stale, self._states = self._states[:-_KEPT], self._states[-_KEPT:]
        used = {stored for kept in self._states for stored in kept.files}
        for stored in {stored for old in stale for stored in old.files} - used:
            await self._store.delete(stored)


def ledger_document(ledger: Ledger) -> dict[str, Any]:
    return asdict(ledger)


def read_ledger(document: Mapping[str, Any]) -> Ledger:
    return Ledger(
        document["total"],
        document["next"],
        _shards(document["returned"]),
        {member: _shards(shards) for member, shards in document["held"].items()},
    )


def _shards(documents: list[dict[str, int]]) -> tuple[Shard, ...]:
    return tuple(Shard(**document) for document in documents)
