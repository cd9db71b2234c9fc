"""Where the numbers are computed: what the slice needs of the process around it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.engines.budsim.catalogue import Gpu
from foundry.engines.budsim.request import ClusterSpec
from foundry.infra.objects import ObjectStore
from foundry.serving.recommendations import numerics, trained
from foundry.serving.recommendations.domain import Question
from foundry.serving.recommendations.learning import NOTHING, Learnt

P = ParamSpec("P")
T = TypeVar("T")
# Reads what counts now; whoever measures deployments provides it.
CurrentLearnt = Callable[[AsyncSession], Awaitable[Learnt]]


async def learn_nothing(db: AsyncSession) -> Learnt:
    """What a site knows that measures nothing."""
    return NOTHING


class Searcher(Protocol):
    async def recommend(self, question: Question) -> dict[str, object]:
        """The answer as plain JSON values.

        Raises:
            UnsupportedFeature: budsim's libraries are not installed.
            InvalidRequest: the question cannot be answered: the model or a GPU is unknown.
        """


class LiveCluster(Protocol):
    async def describe(self) -> ClusterSpec:
        """The accelerators that are here and free. Raises InvalidRequest: there are none."""

    async def probe_cpu(self) -> Gpu:
        """What a node without accelerators attains. Raises Unavailable: none could be measured."""


class Meter(Protocol):
    """Counts what budsim does."""

    def count_search(self, seconds: float, outcome: str) -> None:
        """A search has ended.

        Args:
            outcome: `done`, or the code of an error.
        """

    def count_predictions(self, count: int) -> None:
        """So many configurations were asked about by name."""


class Unmetered:
    def count_search(self, seconds: float, outcome: str) -> None:
        pass

    def count_predictions(self, count: int) -> None:
        pass


class Threads:
    """Runs blocking numerical code beside the event loop, so much of it at once."""

    def __init__(self, concurrency: int = 2) -> None:
        self._free = asyncio.Semaphore(concurrency)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._free:
            return await asyncio.to_thread(work, *args, **kwargs)


class LocalSearcher:
    """Searches in this process."""

    def __init__(self, threads: Threads, objects: ObjectStore) -> None:
        self._threads = threads
        self._objects = objects

    async def recommend(self, question: Question) -> dict[str, object]:
        await trained.ensure_model(self._objects, question.learnt)
        return await self._threads.run(numerics.recommend, question)
