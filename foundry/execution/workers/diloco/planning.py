"""How many batches each member gets in a round, and at which learning rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from foundry.engines.training.diloco.config import DilocoConfig, Fragment, OuterConfig
from foundry.engines.training.diloco.ledger import Ledger, Shards, merged
from foundry.engines.training.diloco.local import scatters
from foundry.execution.workers.diloco.messages import RoundPlan

# A member that is expected to be later than both gets fewer batches. Less than this is noise, and
# without noise the same fleet makes the same plans.
_LATE_S = 2.0
_LATE_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Outline:
    """What the plans of one round have in common.

    Attributes:
        fragment: None: the whole model, at the end of a run that has several.
        parts: into which each offer is cut.
        first_step: of the learning-rate schedule.
        steps: that the round advances it.
    """

    round: int
    fragment: Fragment
    parts: int
    first_step: float
    steps: float

    def plan(self, shards: Shards, overlap: int) -> RoundPlan:
        batches = sum(map(len, shards))
        return RoundPlan(
            self.round,
            self.fragment,
            shards,
            self.first_step,
            self.steps / max(batches, 1),
            self.parts,
            overlap,
        )


def fragment(
    outer: OuterConfig, round: int, before: Ledger, given: Mapping[str, Shards]
) -> Fragment:
    """What the round exchanges: fragments take turns, and the whole model goes with the last
    batches, so that no fragment's last steps are lost.

    Args:
        before: the ledger before the batches were given out.
    """
    if outer.fragments > 1 and _batches(given) == before.left:
        return None
    return (round - 1) % outer.fragments


def outline(
    config: DilocoConfig,
    round: int,
    fragment: Fragment,
    before: Ledger,
    given: Mapping[str, Shards],
    members: int,
) -> Outline:
    """What a round is about, before its batches are given out.

    Args:
        before: the ledger before the batches were given out.
        members: who will take part with an offer.
    """
    outer, workers = config.outer, config.fleet.workers
    return Outline(
        round=round,
        fragment=fragment,
        parts=members if members and scatters(outer, members) else 1,
        first_step=(before.total - before.left) / workers,
        steps=_batches(given) / workers,
    )


def _batches(given: Mapping[str, Shards]) -> int:
    return sum(len(shard) for shards in given.values() for shard in shards)


def counts(speeds: Mapping[str, float | None], interval: int) -> dict[str, int]:
    """Batches for each member, so that all are done at about the same time.

    Args:
        speeds: seconds per batch; None: not measured yet.
    """
    known = [speed for speed in speeds.values() if speed is not None]
    usual = median(known) if known else 0.0
    return {member: _count(speed, usual, interval) for member, speed in speeds.items()}


def _count(speed: float | None, usual: float, interval: int) -> int:
    if speed is None or interval * (speed - usual) <= max(_LATE_S, _LATE_SHARE * interval * usual):
        return interval
    return max(1, round(interval * usual / speed))


def catching_up(speed: float | None, seconds_left: float, interval: int) -> int:
    """Batches for one that starts in the middle of a round; may be 0."""
    if not speed:
        return 0
    return max(0, min(interval, int(seconds_left / speed)))


def returned(ledger: Ledger, shards: Shards) -> Ledger:
    """Batches that were offered, in a round that goes on without them."""
    return replace(ledger, returned=merged([*ledger.returned, *shards]))


def reducers(
    participants: Sequence[str], parts: int, before: Sequence[str] = ()
) -> tuple[str, ...]:
    """Who averages each part.

    Args:
        before: of an attempt that failed. Whoever is still there keeps its parts, because it keeps
            the error of each part that it has forwarded.
    """
    if parts == 1:
        return ()
    fresh = [participants[part % len(participants)] for part in range(parts)]
    return tuple(
        old if old in participants else new for old, new in zip(before or fresh, fresh, strict=True)
    )
