"""SQL of recommendations, prices and predictions."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.infra.database import utcnow
from foundry.infra.references import match_reference
from foundry.serving.recommendations.domain import MAX_ATTEMPTS, RecommendationState
from foundry.serving.recommendations.tables import (
    EndpointPrediction,
    PriceList,
    ProbedHardware,
    Recommendation,
)

_S = RecommendationState


class RecommendationRows:
    """Recommendations of one project, and its tenant's prices."""

    def __init__(self, db: AsyncSession, tenant_id: UUID, project_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id
        self._mine = (
            Recommendation.tenant_id == tenant_id,
            Recommendation.project_id == project_id,
        )

    async def add(self, row: Recommendation | PriceList) -> None:
        self._db.add(row)
        await self._db.flush()

    async def lock_question(self, what: str) -> None:
        """Until commit, nobody else of the tenant asks the same or changes the prices."""
        key = func.hashtextextended(f"budsim:{self._tenant_id}:{what}", 0)
        await self._db.execute(select(func.pg_advisory_xact_lock(key)))

    async def find_same(self, digest: str) -> Recommendation | None:
        query = select(Recommendation).where(
            *self._mine, Recommendation.digest == digest, Recommendation.state != _S.FAILED
        )
        return (await self._db.execute(query)).scalar()

    async def get(self, recommendation_id: UUID) -> Recommendation | None:
        query = select(Recommendation).where(*self._mine, Recommendation.id == recommendation_id)
        found = await self._db.execute(query.execution_options(populate_existing=True))
        return found.scalar()

    async def list_page(
        self, reference: str | None, before: UUID | None, limit: int
    ) -> Sequence[Recommendation]:
        """Newest first."""
        query = select(Recommendation).where(*self._mine)
        if reference is not None:
            query = query.where(match_reference(reference, Recommendation.id, Recommendation.model))
        if before is not None:
            query = query.where(Recommendation.id < before)
        query = query.order_by(Recommendation.id.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()

    async def get_prices(self) -> PriceList | None:
        """The list that counts."""
        query = (
            select(PriceList)
            .where(PriceList.tenant_id == self._tenant_id)
            .order_by(PriceList.version.desc())
            .limit(1)
        )
        return (await self._db.execute(query)).scalar()


class Attempts:
    """What the processes that search write; across tenants, by id."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def claim(self, recommendation_id: UUID, abandoned_s: float) -> Recommendation | None:
        """Take a search that waits, or whose process has died. None: there is nothing to take.

        One that has died too often ends here.
        """
        silent = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, abandoned_s)
        free = or_(Recommendation.state == _S.PENDING, Recommendation.started_at < silent)
        mine = (
            Recommendation.id == recommendation_id,
            Recommendation.state.in_((_S.PENDING, _S.RUNNING)),
            free,
        )
        taken = await self._move(
            (*mine, Recommendation.attempt < MAX_ATTEMPTS),
            state=_S.RUNNING,
            attempt=Recommendation.attempt + 1,
            started_at=func.now(),
        )
        if taken is None:
            message = f"its search died {MAX_ATTEMPTS} times: ask again, or ask for less"
            error = {"code": "engine_failed", "message": message}
            worn_out = (*mine, Recommendation.attempt >= MAX_ATTEMPTS)
            await self._move(worn_out, state=_S.FAILED, error=error, finished_at=utcnow())
        return taken

    async def finish(
        self, recommendation_id: UUID, attempt: int, state: RecommendationState, **values: object
    ) -> bool:
        """False: another attempt has taken over, and nothing has changed."""
        held = (
            Recommendation.id == recommendation_id,
            Recommendation.state == _S.RUNNING,
            Recommendation.attempt == attempt,
        )
        moved = await self._move(held, state=state, finished_at=utcnow(), **values)
        return moved is not None

    async def _move(self, where: Sequence[Any], **values: Any) -> Recommendation | None:
        statement = update(Recommendation).where(*where).values(**values)
        found = await self._db.execute(
            statement.returning(Recommendation).execution_options(populate_existing=True)
        )
        return found.scalar()


class HardwareRows:
    """What was probed of the site's nodes; across tenants."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def lock(self) -> None:
        """Until commit, nobody else measures."""
        key = func.hashtextextended("budsim:hardware", 0)
        await self._db.execute(select(func.pg_advisory_xact_lock(key)))

    async def list_all(self) -> Sequence[ProbedHardware]:
        return (await self._db.execute(select(ProbedHardware))).scalars().all()

    async def get(self, gpu: str) -> ProbedHardware | None:
        return await self._db.get(ProbedHardware, gpu)

    async def put(self, row: ProbedHardware) -> ProbedHardware:
        merged = await self._db.merge(row)
        await self._db.flush()
        return merged


class PredictionRows:
    """Predictions of endpoints' revisions, by endpoint."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def add(self, row: EndpointPrediction) -> None:
        self._db.add(row)
        await self._db.flush()

    async def find_prediction(self, endpoint_id: UUID, revision: int) -> EndpointPrediction | None:
        return await self._db.get(EndpointPrediction, (endpoint_id, revision))
