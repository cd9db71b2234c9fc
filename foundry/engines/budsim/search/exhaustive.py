"""Every repaired genome: the oracle against which the evolution is measured."""

from collections.abc import Sequence

from foundry.engines.budsim.configuration import Floats
from foundry.engines.budsim.search.archive import Archive, feasible_front
from foundry.engines.budsim.search.evaluation import CHUNK, Evaluator
from foundry.engines.budsim.search.genome import Space

LIMIT = 20_000


def count(spaces: Sequence[Space]) -> int:
    """Repaired genomes of all islands."""
    return sum(space.count() for space in spaces)


def exhaust(evaluator: Evaluator, spaces: Sequence[Space]) -> list[Archive]:
    """Archives that hold all genomes of their islands, predicted in chunks."""
    archives = []
    for space in spaces:
        archive = Archive.of(space)
        genomes = space.everything()
        for start in range(0, len(genomes), CHUNK):
            part = genomes[start : start + CHUNK]
            archive.add(part, evaluator.score([(space, part)])[0])
        archives.append(archive)
    return archives


def exhaustive_front(evaluator: Evaluator, spaces: Sequence[Space]) -> Floats:
    """The true front, whatever its cost; (N, 3)."""
    return feasible_front(exhaust(evaluator, spaces))
