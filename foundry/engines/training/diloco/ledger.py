"""Which batches are still to be trained on. A batch counts once its round is committed.

Members come and go; the sequence of batches is fixed by the data and the seed. A batch whose
worker was lost goes back and is the first to be given out again, so none is skipped and none is
merged twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Batches `start` to `stop - 1` of the run."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


Shards = tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class Ledger:
    """An immutable account; every change is a new one.

    Attributes:
        total: batches of the run.
        next: the first batch that nobody was ever given.
        returned: batches that were given out and came back, ascending.
        held: what each member is working on or has not got merged yet.
    """

    total: int
    next: int = 0
    returned: Shards = ()
    held: Mapping[str, Shards] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Batches that can be given out."""
        return self.total - self.next + sum(map(len, self.returned))

    @property
    def outstanding(self) -> int:
        """Batches that are given out and not merged."""
        return sum(len(shard) for shards in self.held.values() for shard in shards)

    @property
    def committed(self) -> int:
        return self.total - self.left - self.outstanding

    def assign(self, counts: Mapping[str, int]) -> tuple["Ledger", dict[str, Shards]]:
        """Give each member up to so many batches; near the end the rest is shared out evenly.

        The members are served in the order of their names: the same ledger and counts give the
        same shards.
        """
        members = sorted(counts)
        wanted = dict(counts)
        if sum(wanted.values()) > self.left:
            wanted = _shared(self.left, members, counts)
        given: dict[str, Shards] = {}
        ledger = self
        for member in members:
            ledger, given[member] = ledger._take(wanted[member])
        held = dict(self.held)
        for member, shards in given.items():
            if shards:
                held[member] = merged([*held.get(member, ()), *shards])
        return replace(ledger, held=held), given

    def commit(self, members: Iterable[str]) -> "Ledger":
        """What these members held is trained."""
        gone = set(members)
        return replace(self, held={m: s for m, s in self.held.items() if m not in gone})

    def give_back(self, member: str) -> "Ledger":
        """The member is lost: what it held must be trained by others."""
        held = dict(self.held)
        shards = held.pop(member, ())
        return replace(self, held=held, returned=merged([*self.returned, *shards]))

    def _take(self, count: int) -> tuple["Ledger", Shards]:
        taken: list[Shard] = []
        returned = list(self.returned)
        while count and returned:
            first = returned.pop(0)
            part = Shard(first.start, min(first.stop, first.start + count))
            if part.stop < first.stop:
                returned.insert(0, Shard(part.stop, first.stop))
            taken.append(part)
            count -= len(part)
        fresh = min(count, self.total - self.next)
        if fresh:
            taken.append(Shard(self.next, self.next + fresh))
        rest = replace(self, next=self.next + fresh, returned=tuple(returned))
        return rest, merged(taken)


def merged(shards: Sequence[Shard]) -> Shards:
    """Ascending, neighbours joined."""
    out: list[Shard] = []
    for shard in sorted(shards):
        if out and out[-1].stop == shard.start:
            out[-1] = Shard(out[-1].start, shard.stop)
        else:
            out.append(shard)
    return tuple(out)


def _shared(left: int, members: Sequence[str], counts: Mapping[str, int]) -> dict[str, int]:
    """`left` batches in proportion to `counts`, none above its count."""
    total = sum(counts.values())
    shares = {member: left * counts[member] // total for member in members}
    for member in members:
        if sum(shares.values()) < left and shares[member] < counts[member]:
            shares[member] += 1
    return shares
