"""What an island has tried."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from foundry.engines.budsim.configuration import Configurations, Floats, Ints
from foundry.engines.budsim.search.evaluation import Scores
from foundry.engines.budsim.search.front import non_dominated
from foundry.engines.budsim.search.genome import GENES, Space


@dataclass(slots=True, eq=False)
class Archive:
    """Every genome that an island has tried, in the order of trial.

    Attributes:
        genomes: (N, genes), repaired.
        rows: of `genomes` by key.
    """

    space: Space
    genomes: Ints
    scores: Scores
    rows: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, space: Space) -> "Archive":
        nothing = Scores(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 0)), np.zeros(0))
        return cls(space, np.zeros((0, len(GENES)), dtype=np.int64), nothing)

    def __len__(self) -> int:
        return len(self.genomes)

    def unseen(self, genomes: Ints) -> Ints:
        """Those not tried yet, each once."""
        keys = self.space.keys(genomes).tolist()
        first = {key: at for at, key in reversed([*enumerate(keys)]) if key not in self.rows}
        return genomes[sorted(first.values())]

    def known(self, genomes: Ints) -> list[bool]:
        return [key in self.rows for key in self.space.keys(genomes).tolist()]

    def find(self, genomes: Ints) -> list[int]:
        """Rows of tried genomes, each once."""
        return list(dict.fromkeys(self.rows[key] for key in self.space.keys(genomes).tolist()))

    def add(self, genomes: Ints, scores: Scores) -> None:
        start = len(self.genomes)
        keys = self.space.keys(genomes).tolist()
        self.rows.update((key, start + at) for at, key in enumerate(keys))
        self.genomes = np.concatenate([self.genomes, genomes])
        self.scores = joined([self.scores, scores]) if start else scores


def joined(parts: Sequence[Scores]) -> Scores:
    """The rows of all parts, in order."""
    columns = [
        np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Scores)
    ]
    return Scores(*columns)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """All islands' trials as one table; rows in the order of the islands."""

    archives: tuple[Archive, ...]
    scores: Scores

    @classmethod
    def of(cls, archives: Sequence[Archive]) -> "Pool":
        """Of at least one archive that is not empty."""
        tried = tuple(archive for archive in archives if len(archive))
        return cls(tried, joined([archive.scores for archive in tried]))

    def __len__(self) -> int:
        return len(self.scores.violation)

    @property
    def feasible(self) -> Ints:
        """Rows that meet every target."""
        return np.flatnonzero(self.scores.violation <= 0.0)

    def configurations(self, rows: Ints) -> list[Configurations]:
        """One table per row: islands differ in their accelerator."""
        starts = np.cumsum([0, *(len(archive) for archive in self.archives)])
        owners = np.searchsorted(starts, rows, side="right") - 1
        return [
            self.archives[owner].space.decode(self.archives[owner].genomes[[row - starts[owner]]])
            for owner, row in zip(owners.tolist(), rows.tolist(), strict=True)
        ]


def feasible_front(archives: Sequence[Archive]) -> Floats:
    """Objectives of the Pareto front of all feasible genomes; (N, 3)."""
    scores = Pool.of(archives).scores
    points = scores.objectives[scores.violation <= 0.0]
    return points[non_dominated(points)]
