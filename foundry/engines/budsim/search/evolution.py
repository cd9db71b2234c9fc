"""NSGA-II (Deb et al. 2002) per island, all islands in step.

Islands share nothing but the prediction of a generation, so an island searched alone, in a Ray
task, finds what it finds among others.
"""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from deap import base, tools

from foundry.engines.budsim.configuration import Ints
from foundry.engines.budsim.search.archive import Archive
from foundry.engines.budsim.search.evaluation import Evaluator
from foundry.engines.budsim.search.genome import GENES, SEQUENCES, Space

POPULATION = 96
GENERATIONS = 40
CROSSOVER = 0.9
# Of a changed gene: share that is drawn anew; the others move one index up or down.
RESET = 0.3
# Children that were seen before are changed again so often.
_RETRIES = 3


class Fitness(base.Fitness):  # type: ignore[misc]
    """Log objectives, minimised."""

    weights = (-1.0, -1.0, -1.0)


class Individual:
    """A row of an archive, as DEAP's selection wants it."""

    __slots__ = ("fitness", "row")

    def __init__(self, row: int, values: list[float]) -> None:
        self.row = row
        self.fitness = Fitness(values)
        self.fitness.crowding_dist = 0.0


class Population:
    """One island's survivors and their random stream."""

    def __init__(self, space: Space, seed: str) -> None:
        name = f"{seed}/{space.island.gpu}/{space.island.runtime}"
        self._rng = np.random.default_rng(int.from_bytes(sha256(name.encode()).digest()[:8]))
        self._individuals: list[Individual] = []
        self.archive = Archive.of(space)
        self.members: list[Individual] = []

    def first(self) -> Ints:
        """Corners of the space, then random genomes."""
        space = self.archive.space
        seeds = corners(space)
        if len(seeds) > POPULATION * 2 // 3:
            seeds = seeds[self._rng.permutation(len(seeds))[: POPULATION * 2 // 3]]
        drawn = self._rng.integers(0, space.sizes, size=(POPULATION - len(seeds), len(GENES)))
        return space.repair(np.concatenate([seeds, drawn]))

    def children(self) -> Ints:
        """As many as members, repaired; those tried before are changed again."""
        space = self.archive.space
        parents = self.archive.genomes[self._tournament()]
        children = space.repair(self._mutate(self._cross(parents)))
        for _ in range(_RETRIES):
            known = np.flatnonzero(self.archive.known(children))
            if not len(known):
                break
            children[known] = space.repair(self._mutate(children[known]))
        return children

    def survive(self, children: Ints) -> None:
        """Deb's rule: feasible before infeasible, fronts then crowding among the feasible, the
        smaller violation among the others."""
        self._label()
        rows = [member.row for member in self.members] + self.archive.find(children)
        pool = [self._individuals[row] for row in dict.fromkeys(rows)]
        violation = self.archive.scores.violation.tolist()
        good = [one for one in pool if violation[one.row] <= 0.0]
        if len(good) >= POPULATION:
            self.members = tools.selNSGA2(good, POPULATION, nd="log")
            return
        if good:
            good = tools.selNSGA2(good, len(good), nd="log")
        bad = sorted(
            (one for one in pool if violation[one.row] > 0.0), key=lambda one: violation[one.row]
        )
        self.members = good + bad[: POPULATION - len(good)]

    def _label(self) -> None:
        """Makes individuals of the archive's new rows."""
        start = len(self._individuals)
        with np.errstate(divide="ignore"):
            values = np.log(self.archive.scores.objectives[start:]).tolist()
        self._individuals += [Individual(start + at, row) for at, row in enumerate(values)]

    def _tournament(self) -> list[int]:
        """Binary, by violation, dominance and crowding; rows of as many parents as members."""
        rows = np.asarray([member.row for member in self.members])
        crowding = np.asarray([member.fitness.crowding_dist for member in self.members])
        a, b = self._rng.integers(0, len(rows), size=(2, POPULATION))
        violation = self.archive.scores.violation[rows]
        points = self.archive.scores.objectives[rows]
        no_worse = (points[b] <= points[a]).all(axis=1) & (points[b] < points[a]).any(axis=1)
        worse = (points[a] <= points[b]).all(axis=1) & (points[a] < points[b]).any(axis=1)
        equal = np.where(no_worse, True, ~worse & (crowding[b] > crowding[a]))
        second = np.where(violation[a] == violation[b], equal, violation[b] < violation[a])
        chosen: list[int] = rows[np.where(second, b, a)].tolist()
        return chosen

    def _cross(self, parents: Ints) -> Ints:
        """Uniform crossover of neighbours."""
        half = len(parents) // 2
        pairs = self._rng.random((half, 1)) < CROSSOVER
        swap = pairs & (self._rng.random((half, parents.shape[1])) < 0.5)
        one, two = parents[:half].copy(), parents[half : 2 * half].copy()
        one[swap], two[swap] = two[swap], one[swap]
        return np.concatenate([one, two])

    def _mutate(self, genomes: Ints) -> Ints:
        """Each gene with chance 1/genes: an index step, or drawn anew."""
        sizes = self.archive.space.sizes
        change = self._rng.random(genomes.shape) < 1.0 / genomes.shape[1]
        step = self._rng.integers(0, 2, size=genomes.shape) * 2 - 1
        drawn = self._rng.integers(0, sizes, size=genomes.shape)
        moved = np.where(self._rng.random(genomes.shape) < RESET, drawn, genomes + step)
        return np.where(change, np.clip(moved, 0, sizes - 1), genomes)


def corners(space: Space) -> Ints:
    """Per cell shape (the most memory, half of the batched tokens): fewest and most sequences
    with fewest and most replicas."""
    sizes = space.shape
    shapes = np.stack(np.unravel_index(np.arange(int(np.prod(sizes[:4]))), sizes[:4]), axis=1)
    memory = np.tile([sizes[4] - 1, sizes[5] // 2], (len(shapes), 1))
    ends = [(s, r) for s in (0, len(SEQUENCES) - 1) for r in (0, int(space.room.max()) - 1)]
    blocks = [np.column_stack([shapes, memory, np.tile(end, (len(shapes), 1))]) for end in ends]
    genomes = space.repair(np.concatenate(blocks).astype(np.int64))
    _, first = np.unique(space.keys(genomes), return_index=True)
    return genomes[np.sort(first)]


def evolve(
    evaluator: Evaluator, spaces: Sequence[Space], *, seed: str, generations: int = GENERATIONS
) -> list[Archive]:
    """Searches islands; their archives, in the order of `spaces`. Empty islands stay empty.

    Args:
        seed: digest of the request; each island draws from its own stream.
    """
    populations = [Population(space, seed) for space in spaces]
    active = [one for one in populations if not one.archive.space.empty]
    for generation in range(generations + 1):
        broods = [one.children() if generation else one.first() for one in active]
        fresh = [
            (one, brood, new)
            for one, brood in zip(active, broods, strict=True)
            if len(new := one.archive.unseen(brood))
        ]
        if not fresh:
            break
        scores = evaluator.score([(one.archive.space, new) for one, _, new in fresh])
        for (one, brood, new), score in zip(fresh, scores, strict=True):
            one.archive.add(new, score)
            one.survive(brood)
        # An island without new children stops, whatever the others do.
        active = [one for one, _, _ in fresh]
    return [one.archive for one in populations]
