"""What a run with losses and joins is held to: pure arithmetic over its log."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from foundry.execution.fleets.domain import FleetEvent, RoundRecord

Rounds = Sequence[tuple[float, RoundRecord]]


@dataclass(frozen=True, slots=True)
class Life:
    """When a worker could train, on the monotonic clock, s."""

    member: str
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended - self.began)


def began(rounds: Rounds) -> float:
    """When the first round's training began."""
    at, record = rounds[0]
    return at - record.seconds


def seconds(rounds: Rounds) -> float:
    """From the begin of the first round's training to the last commit."""
    return rounds[-1][0] - began(rounds)


def batches(rounds: Rounds) -> int:
    """Committed ones."""
    return sum(share.batches for _, record in rounds for share in record.members if share.merged)


def pace(rounds: Rounds) -> float:
    """Batches per worker and second of a run whose workers all stay, exchanges included."""
    workers = len({share.member for _, record in rounds for share in record.members})
    return batches(rounds) / (workers * seconds(rounds))


def step_seconds(rounds: Rounds) -> float:
    """Seconds per inner step; equal in both runs, or a worker's speed depended on the others."""
    shares = [share for _, record in rounds for share in record.members]
    return sum(share.train_seconds for share in shares) / sum(share.batches for share in shares)


def lives(rounds: Rounds, healed: Mapping[str, float], killed: Mapping[str, float]) -> list[Life]:
    """One life of each member that the fleet has had.

    A worker lives from the moment it has the fleet's state (`healed`; those of the first round
    have it when training begins) until it is killed (`killed`) or the run ends. The time that
    nobody takes to notice its death is not its own, but the survivors' who wait is.
    """
    first, last = began(rounds), rounds[-1][0]
    founders = {share.member for share in rounds[0][1].members}
    members = founders | set(healed)
    return [
        Life(
            member,
            first if member in founders else healed[member],
            min(last, killed.get(member, last)),
        )
        for member in sorted(members)
    ]


def step_efficiency(rounds: Rounds, alive: Iterable[Life], calm_pace: float) -> float:
    """Committed batches ÷ batches that the living had time for at the calm run's pace."""
    return batches(rounds) / (calm_pace * sum(life.seconds for life in alive))


def first_merged(rounds: Rounds, member: str) -> float | None:
    """When the first round with this member's work was committed; None: never."""
    for at, record in rounds:
        if any(share.member == member and share.merged for share in record.members):
            return at
    return None


def corrupt_commits(digests: Iterable[Mapping[str, str]], events: Iterable[FleetEvent]) -> int:
    """Commits after which members differed, and members that were taken out as damaged.

    Args:
        digests: of the state of each member, after each commit.
    """
    unequal = sum(len(set(found.values())) > 1 for found in digests)
    return unequal + sum(event.kind == "corrupt" for event in events)


def relative_gap(loss: float, calm_loss: float) -> float:
    """By how much the loss is worse than the calm run's; negative: better.

    Fewer workers take more steps one after another on the same batches, so early in training a
    fleet that has lost some is ahead of the calm one.
    """
    return (loss - calm_loss) / calm_loss
