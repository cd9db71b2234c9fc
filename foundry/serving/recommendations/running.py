"""Searches that outlast the request that asked for them.

Level-triggered: whoever looks at a recommendation that nobody searches starts its search, so a
process that dies costs time and never an answer.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import FoundryError
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore
from foundry.serving.recommendations.domain import (
    ABANDONED_S,
    ENDED,
    SEARCH_S,
    Question,
    RecommendationState,
)
from foundry.serving.recommendations.learning import of_document
from foundry.serving.recommendations.repository import Attempts
from foundry.serving.recommendations.schemas import Demand, RecommendationCreate
from foundry.serving.recommendations.searching import (
    CurrentLearnt,
    LiveCluster,
    LocalSearcher,
    Meter,
    Searcher,
    Threads,
    Unmetered,
    learn_nothing,
)
from foundry.serving.recommendations.service import Recommendation, Recommendations

log = logging.getLogger(__name__)

_POLL_S = 0.2


class Searches:
    """One process's searches.

    Attributes:
        threads: where the blocking numerical code of this process runs.
        learnt: reads what counts now.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        *,
        searcher: Searcher | None = None,
        live: LiveCluster | None = None,
        meter: Meter | None = None,
        learnt: CurrentLearnt = learn_nothing,
        abandoned_s: float = ABANDONED_S,
    ) -> None:
        self.threads = Threads()
        self._database = database
        self._objects = objects
        self._searcher = searcher or LocalSearcher(self.threads, objects)
        self._live = live
        self.learnt = learnt
        self.meter = meter or Unmetered()
        self._abandoned_s = abandoned_s
        self._searches: dict[UUID, asyncio.Task[bool]] = {}

    @asynccontextmanager
    async def recommendations(
        self, principal: Principal, request_id: str = ""
    ) -> AsyncIterator[Recommendations]:
        """The service in a transaction of its own: a request that waits holds none meanwhile."""
        async with self._database.begin() as db:
            yield self.service(db, AuditTrail(db, principal, request_id), principal)

    def service(self, db: AsyncSession, audit: AuditTrail, principal: Principal) -> Recommendations:
        """In the caller's transaction."""
        return Recommendations(db, self._objects, audit, principal, self._live, self.learnt)

    async def ask(
        self, principal: Principal, request_id: str, question: RecommendationCreate, wait_s: float
    ) -> Recommendation:
        async with self.recommendations(principal, request_id) as recommendations:
            row, _ = await recommendations.ask(question)
        return await self.wait_until_settled(principal, row.id, wait_s)

    async def wait_until_settled(
        self, principal: Principal, recommendation_id: UUID, wait_s: float = 0.0
    ) -> Recommendation:
        """The recommendation once it has ended, or as it is after `wait_s`.

        Raises NotFound.
        """
        deadline = time.monotonic() + wait_s
        while True:
            async with self.recommendations(principal) as recommendations:
                row = await recommendations.get(recommendation_id)
            if row.state in ENDED:
                return row
            search, left = self.start(row.id), deadline - time.monotonic()
            if left <= 0:
                return row
            done, _ = await asyncio.wait({search}, timeout=left)
            if done and not search.result():
                # Another process searches: look at the row now and then.
                await asyncio.sleep(min(left, _POLL_S))

    def start(self, recommendation_id: UUID) -> "asyncio.Task[bool]":
        """Search unless this process does so already, or another one holds the row."""
        search = self._searches.get(recommendation_id)
        if search is None:
            search = asyncio.create_task(self._search(recommendation_id))
            self._searches[recommendation_id] = search
            search.add_done_callback(lambda _: self._searches.pop(recommendation_id, None))
        return search

    async def begin(self, recommendation_id: UUID) -> None:
        """As `start`, on this loop although the caller may be elsewhere."""
        self.start(recommendation_id)

    async def close(self) -> None:
        """Give up what runs; others take it over when it is old enough."""
        running = list(self._searches.values())
        for search in running:
            search.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _search(self, recommendation_id: UUID) -> bool:
        """Whether there was something to search, and an answer."""
        try:
            async with self._database.begin() as db:
                row = await Attempts(db).claim(recommendation_id, self._abandoned_s)
            if row is None:
                return False
            began = time.monotonic()
            state, values = await self._outcome(row)
            outcome = str(values["error"]["code"]) if "error" in values else "done"
            self.meter.count_search(time.monotonic() - began, outcome)
            async with self._database.begin() as db:
                return await Attempts(db).finish(row.id, row.attempt, state, **values)
        except FoundryError as error:
            # PostgreSQL is away: the row stays as it is, and the next look tries again.
            log.warning("recommendation %s: %s", recommendation_id, error.message)
            return False

    async def _outcome(
        self, row: Recommendation
    ) -> tuple[RecommendationState, dict[str, dict[str, object]]]:
        try:
            async with asyncio.timeout(SEARCH_S):
                result = await self._searcher.recommend(_question(row))
        except FoundryError as error:
            return _failure(error.code, error.message)
        except TimeoutError:
            return _failure("deadline_exceeded", f"no answer within {SEARCH_S:g} s: ask for less")
        except Exception:
            # The row must end: whoever waits for it learns of the fault from there.
            log.exception("the search of recommendation %s failed", row.id)
            return _failure("internal_error", "the search failed; the server's log has the reason")
        return RecommendationState.DONE, {"result": result}


def _failure(code: str, message: str) -> tuple[RecommendationState, dict[str, dict[str, object]]]:
    return RecommendationState.FAILED, {"error": {"code": code, "message": message}}


def _question(row: Recommendation) -> Question:
    return Question(
        config=row.config_json,
        checkpoint_bytes=row.checkpoint_bytes,
        request=Demand.model_validate(row.request).request(),
        prices=cast(dict[str, float], row.prices),
        learnt=of_document(row.learnt),
    )
