"""SQL of windows, outcomes, corrections, models and advice."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.infra.database import utcnow
from foundry.serving.outcomes.domain import WindowPart
from foundry.serving.outcomes.tables import (
    BudsimAdvice,
    BudsimAlarm,
    BudsimBias,
    BudsimModel,
    EndpointWindow,
    PredictionOutcome,
)

_PART = ("endpoint_id", "revision", "started_at", "replica")


class WindowRows:
    """What gateways wrote; across tenants."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def put(self, parts: Sequence[WindowPart]) -> None:
        """Each replaces the replica's earlier row of the same window."""
        rows = [
            {
                "endpoint_id": part.endpoint_id,
                "revision": part.revision,
                "started_at": part.started_at,
                "replica": part.replica,
                "tenant_id": part.tenant_id,
                "window_s": part.window_s,
                "engine_version": part.engine_version,
                "statistics": part.statistics.to_json(),
                "updated_at": utcnow(),
            }
            # In one order everywhere: two replicas that write at once must not wait in a circle.
            for part in sorted(parts, key=lambda part: (part.endpoint_id, part.started_at))
        ]
        statement = insert(EndpointWindow).values(rows)
        replaced = {name: statement.excluded[name] for name in ("statistics", "updated_at")}
        await self._db.execute(statement.on_conflict_do_update(index_elements=_PART, set_=replaced))

    async def list_oldest_open(self, before: datetime, limit: int) -> Sequence[EndpointWindow]:
        """Parts of windows that ended before then, oldest first."""
        ended = EndpointWindow.started_at + func.make_interval(
            0, 0, 0, 0, 0, 0, EndpointWindow.window_s
        )
        query = (
            select(EndpointWindow)
            .where(EndpointWindow.closed.is_(False), ended <= before)
            .order_by(EndpointWindow.started_at, EndpointWindow.endpoint_id)
            .limit(limit)
        )
        return (await self._db.execute(query)).scalars().all()

    async def list_parts(
        self, endpoint_id: UUID, revision: int, started_at: datetime
    ) -> Sequence[EndpointWindow]:
        query = select(EndpointWindow).where(
            EndpointWindow.endpoint_id == endpoint_id,
            EndpointWindow.revision == revision,
            EndpointWindow.started_at == started_at,
        )
        return (await self._db.execute(query)).scalars().all()

    async def close(self, endpoint_id: UUID, revision: int, started_at: datetime) -> None:
        await self._db.execute(
            update(EndpointWindow)
            .where(
                EndpointWindow.endpoint_id == endpoint_id,
                EndpointWindow.revision == revision,
                EndpointWindow.started_at == started_at,
            )
            .values(closed=True)
        )

    async def forget(self, before: datetime) -> None:
        await self._db.execute(
            delete(EndpointWindow).where(
                EndpointWindow.started_at < before, EndpointWindow.closed.is_(True)
            )
        )


class OutcomeRows:
    """Outcomes of predictions; across tenants unless one is named."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def put(self, values: dict[str, Any]) -> bool:
        """False: this window has its outcome already."""
        statement = insert(PredictionOutcome).values(values)
        found = await self._db.execute(
            statement.on_conflict_do_nothing(
                index_elements=("endpoint_id", "revision", "started_at", "source")
            ).returning(PredictionOutcome.id)
        )
        return found.scalar() is not None

    async def list_page(
        self, tenant_id: UUID, endpoint_id: UUID | None, before: UUID | None, limit: int
    ) -> Sequence[PredictionOutcome]:
        """Newest first."""
        query = select(PredictionOutcome).where(PredictionOutcome.tenant_id == tenant_id)
        if endpoint_id is not None:
            query = query.where(PredictionOutcome.endpoint_id == endpoint_id)
        if before is not None:
            query = query.where(PredictionOutcome.id < before)
        query = query.order_by(PredictionOutcome.id.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()

    async def list_newest(
        self, limit: int, since: datetime, tenant_id: UUID | None = None
    ) -> list[PredictionOutcome]:
        """The newest windows of each GPU, engine and version."""
        place = func.row_number().over(
            partition_by=(
                PredictionOutcome.gpu,
                PredictionOutcome.engine,
                PredictionOutcome.engine_version,
            ),
            order_by=PredictionOutcome.started_at.desc(),
        )
        ranked = select(PredictionOutcome.id, place.label("place")).where(
            PredictionOutcome.started_at > since
        )
        if tenant_id is not None:
            ranked = ranked.where(PredictionOutcome.tenant_id == tenant_id)
        ranks = ranked.subquery()
        query = (
            select(PredictionOutcome)
            .join(ranks, ranks.c.id == PredictionOutcome.id)
            .where(ranks.c.place <= limit)
            .order_by(PredictionOutcome.started_at)
        )
        return list((await self._db.execute(query)).scalars().all())


class BiasRows:
    """Corrections of this site."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def replace(self, rows: Sequence[BudsimBias]) -> None:
        await self.lock()
        await self._db.execute(delete(BudsimBias))
        self._db.add_all(rows)
        await self._db.flush()

    async def lock(self) -> None:
        key = func.hashtextextended("budsim:biases", 0)
        await self._db.execute(select(func.pg_advisory_xact_lock(key)))

    async def list_all(self) -> Sequence[BudsimBias]:
        query = select(BudsimBias).order_by(
            BudsimBias.gpu, BudsimBias.engine, BudsimBias.engine_version, BudsimBias.target
        )
        return (await self._db.execute(query)).scalars().all()


class AlarmRows:
    """Predictions of this site that are stale."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def replace(self, rows: Sequence[BudsimAlarm]) -> None:
        """Within the transaction that holds `BiasRows.serialise`."""
        await self._db.execute(delete(BudsimAlarm))
        self._db.add_all(rows)
        await self._db.flush()

    async def list_all(self) -> Sequence[BudsimAlarm]:
        query = select(BudsimAlarm).order_by(BudsimAlarm.gpu, BudsimAlarm.engine)
        return (await self._db.execute(query)).scalars().all()


class ModelRows:
    """Versions of the predictor."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def add(self, row: BudsimModel) -> None:
        self._db.add(row)
        await self._db.flush()

    async def lock(self) -> None:
        """Until commit, nobody else registers or promotes."""
        key = func.hashtextextended("budsim:models", 0)
        await self._db.execute(select(func.pg_advisory_xact_lock(key)))

    async def get(self, version: str) -> BudsimModel | None:
        return await self._db.get(BudsimModel, version)

    async def find_active(self) -> BudsimModel | None:
        query = select(BudsimModel).where(BudsimModel.status == "active")
        return (await self._db.execute(query)).scalar()

    async def list_newest(self, limit: int) -> Sequence[BudsimModel]:
        query = select(BudsimModel).order_by(BudsimModel.created_at.desc()).limit(limit)
        return (await self._db.execute(query)).scalars().all()


class AdviceRows:
    """Better configurations for running endpoints."""

    def __init__(self, db: AsyncSession) -> None:
        self._db = db

    async def put(self, row: BudsimAdvice) -> None:
        await self._db.merge(row)
        await self._db.flush()

    async def withdraw(self, endpoint_id: UUID) -> None:
        await self._db.execute(delete(BudsimAdvice).where(BudsimAdvice.endpoint_id == endpoint_id))

    async def list_page(
        self, tenant_id: UUID, after: UUID | None, limit: int
    ) -> Sequence[BudsimAdvice]:
        query = select(BudsimAdvice).where(BudsimAdvice.tenant_id == tenant_id)
        if after is not None:
            query = query.where(BudsimAdvice.endpoint_id > after)
        query = query.order_by(BudsimAdvice.endpoint_id).limit(limit)
        return (await self._db.execute(query)).scalars().all()
