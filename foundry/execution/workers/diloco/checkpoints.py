"""Which checkpoint of a fleet there is, and which of its files may go."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from foundry.engines.training.diloco.ledger import Ledger, Shard
from foundry.errors import DatabaseUnavailable, Unavailable
from foundry.execution.fleets.domain import RoundRecord
from foundry.execution.workers.diloco.messages import Snapshot, StoredState
from foundry.execution.workers.diloco.parties import RoundLog
from foundry.execution.workers.diloco.snapshots import Snapshots

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
        """The state that these members have kept. None: nobody has kept the shared state."""
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
    """The newest checkpoints; older ones' files are removed, then their rows refer to nothing."""

    def __init__(self, store: Snapshots, log: RoundLog) -> None:
        self._store = store
        self._log = log
        self._kept: list[tuple[int, FleetState]] = []
        self._replaced: list[FleetState] = []

    async def open(self) -> tuple[RoundRecord, FleetState] | None:
        """The newest one; what an earlier attempt has left over is removed."""
        records = await self._log.checkpoints()
        found = [(r, FleetState.read(r.checkpoint)) for r in records if r.checkpoint]
        self._kept = [(record.round, state) for record, state in found]
        await self._prune(_KEPT)
        return found[-1] if found else None

    async def add(self, round: int, state: FleetState) -> None:
        """Let the round's row refer to `state`."""
        try:
            await self._log.keep(round, state.document())
        except DatabaseUnavailable:
            # The row still refers to nothing, and an older checkpoint stays.
            return
        if self._kept and self._kept[-1][0] == round:
            self._replaced.append(self._kept.pop()[1])
        self._kept.append((round, state))
        await self._prune(_KEPT)

    async def remove_all(self) -> None:
        """Remove every file, once nothing resumes the job; the rows are left to the log."""
        records = await self._log.checkpoints()
        await self._remove([FleetState.read(r.checkpoint) for r in records if r.checkpoint], [])

    async def _prune(self, count: int) -> None:
        stale, self._kept = self._kept[:-count], self._kept[-count:]
        try:
            old = [*self._replaced, *(state for _, state in stale)]
            await self._remove(old, [state for _, state in self._kept])
            self._replaced.clear()
            for round, _ in stale:
                await self._log.keep(round, None)
        except Unavailable:
            # Tried again after the next checkpoint.
            self._kept = [*stale, *self._kept]

    async def _remove(self, stale: Sequence[FleetState], used: Sequence[FleetState]) -> None:
        needed = {stored for state in used for stored in state.files}
        for stored in {stored for state in stale for stored in state.files} - needed:
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
