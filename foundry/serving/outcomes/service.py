"""What predictions came to, as users see it; `closing` is the supervisor's side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.engines.budsim.packing import shipped_scores
from foundry.engines.budsim.promotion import REFIT_WINDOWS, promotable, refit_due
from foundry.errors import Conflict, InvalidRequest, NotFound
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import Database, utcnow
from foundry.infra.objects import ObjectStore
from foundry.serving.endpoints.service import EndpointSnapshot
from foundry.serving.outcomes.closing import (
    RECENT,
    Closing,
    GatewayWindows,
    Pair,
    measure_staleness,
    outcome_values,
    read_bias,
    read_learnt,
    recalibrate,
    window_of,
)
from foundry.serving.outcomes.domain import Forecasts, Load, Source, Statistics
from foundry.serving.outcomes.repository import AdviceRows, BiasRows, ModelRows, OutcomeRows
from foundry.serving.outcomes.tables import BudsimAdvice, BudsimBias, BudsimModel, PredictionOutcome
from foundry.serving.recommendations import trained

__all__ = [
    "BudsimAdvice",
    "BudsimBias",
    "BudsimModel",
    "Closing",
    "GatewayWindows",
    "LoadTests",
    "Measured",
    "Outcomes",
    "Pair",
    "PredictionOutcome",
    "measure_staleness",
    "read_bias",
    "read_learnt",
]

# The model that the package ships; it has no row until another one was active.
SHIPPED = "0"
_MAX_MODELS = 200


@dataclass(frozen=True, slots=True)
class Alarm:
    """PredictionStale of one GPU, engine and engine version; see `budsim.loop.Staleness`."""

    gpu: str
    engine: str
    engine_version: str
    stale: bool
    median_ape: float | None
    coverage: float | None
    reason: str


class Outcomes:
    """Outcomes and advice of the principal's tenant; corrections and models of the whole site."""

    def __init__(
        self, db: AsyncSession, objects: ObjectStore, audit: AuditTrail, principal: Principal
    ) -> None:
        self._db = db
        self._objects = objects
        self._audit = audit
        self._tenant_id = principal.tenant_id
        self._outcomes = OutcomeRows(db)
        self._models = ModelRows(db)

    async def list_outcomes(
        self,
        *,
        endpoint_id: UUID | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[PredictionOutcome]:
        """Newest first."""
        filters = str(endpoint_id)
        after = decode(cursor, (UUID,), filters)
        before = cast(UUID, after[0]) if after else None
        rows = await self._outcomes.list_page(self._tenant_id, endpoint_id, before, limit + 1)
        return page_of(rows, limit, lambda row: (row.id,), filters)

    async def list_alarms(self) -> list[Alarm]:
        found = await measure_staleness(self._db, self._tenant_id)
        return [Alarm(*pair, **asdict(alarm)) for pair, alarm in found.items()]

    async def is_refit_due(self) -> bool:
        """Whether enough was measured, or enough time has passed, since the active model's fit."""
        active = await self._models.find_active()
        fitted_at = active.created_at.timestamp() if active else 0.0
        rows = await self._outcomes.list_newest(REFIT_WINDOWS, utcnow() - RECENT)
        return refit_due([window_of(row) for row in rows], fitted_at, utcnow().timestamp())

    async def list_advice(
        self, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[BudsimAdvice]:
        after = decode(cursor, (UUID,))
        rows = await AdviceRows(self._db).list_page(
            self._tenant_id, cast(UUID, after[0]) if after else None, limit + 1
        )
        return page_of(rows, limit, lambda row: (row.endpoint_id,))

    async def recalibrate(self) -> Sequence[BudsimBias]:
        """Compute the site's corrections anew from its outcomes."""
        bias = await recalibrate(self._db, utcnow())
        await self._audit.record(
            "bias.recalibrate", "bias", "site", after={"corrections": len(bias.cells)}
        )
        return await BiasRows(self._db).list_all()

    async def list_models(self) -> list[BudsimModel]:
        """Newest first; the shipped model is last, with or without a row."""
        rows = list(await self._models.list_newest(_MAX_MODELS))
        if all(row.version != SHIPPED for row in rows):
            active = any(row.status == "active" for row in rows)
            rows.append(_shipped("retired" if active else "active"))
        return rows

    async def keep_artifact(self, packed: bytes) -> str:
        """Store a packed predictor, to be registered by its digest.

        Raises:
            InvalidArtifact: the bytes are no predictor that this Foundry reads.
        """
        return await trained.keep_model(self._objects, packed)

    async def register_model(
        self,
        version: str,
        digest: str,
        cv: Mapping[str, float],
        site_cv: Mapping[str, tuple[float, float]],
    ) -> BudsimModel:
        """Add a fitted model: active if it is better than the active one, else a shadow.

        Raises:
            Conflict: another model has this version.
            NotFound: its artifact was not uploaded.
        """
        if version == SHIPPED:
            raise Conflict(f"version {SHIPPED} is the shipped model: choose another version")
        if not await self._objects.exists(trained.object_key(digest)):
            raise NotFound(f"there is no artifact {digest}: upload it first")
        await self._models.lock()
        existing = await self._models.get(version)
        if existing is not None:
            if existing.digest == digest:
                return existing
            raise Conflict(f"model {version} exists with other contents: choose another version")
        incumbent = await self._models.find_active()
        # A row of the shipped model may be older than the model that is shipped now.
        own = incumbent is not None and incumbent.version != SHIPPED
        before = cast(dict[str, float], incumbent.cv) if incumbent and own else shipped_scores()
        decision = promotable(before, cv, site_cv)
        row = BudsimModel(
            version=version, digest=digest, cv=dict(cv), reasons=list(decision.reasons)
        )
        await self._models.add(row)
        await self._audit.record("budsim_model.register", "budsim_model", version)
        return await self._activate(row) if decision.promote else row

    async def promote_model(self, version: str) -> BudsimModel:
        """Make a version the active one, whatever its scores; an older one rolls back.

        Raises:
            NotFound: there is no such version.
        """
        await self._models.lock()
        row = await self._models.get(version)
        if row is None and version == SHIPPED:
            row = _shipped("shadow")
            await self._models.add(row)
        if row is None:
            raise NotFound(f"there is no model {version}: `foundry budsim models` lists them")
        return row if row.status == "active" else await self._activate(row)

    async def _activate(self, row: BudsimModel) -> BudsimModel:
        before = await self._models.find_active()
        if before is not None:
            before.status = "retired"
            await self._db.flush()
        row.status, row.promoted_at = "active", utcnow()
        await self._db.flush()
        await self._audit.record(
            "budsim_model.promote",
            "budsim_model",
            row.version,
            before={"active": before.version if before else SHIPPED},
            after={"active": row.version},
        )
        return row


def _shipped(status: str) -> BudsimModel:
    return BudsimModel(
        version=SHIPPED,
        digest="",
        status=status,
        cv=dict(shipped_scores()),
        reasons=[],
        created_at=datetime.fromtimestamp(0).astimezone(),
        promoted_at=None,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """One level of a load test, as its client saw it."""

    started_at: datetime
    duration_s: float
    statistics: Statistics


class LoadTests:
    """Takes what a load test measured: outcomes, then corrections.

    Args:
        forecasts: predict in a transaction of their own; none is open meanwhile.
    """

    def __init__(self, database: Database, forecasts: Forecasts) -> None:
        self._database = database
        self._forecasts = forecasts

    async def record(
        self, endpoint: EndpointSnapshot, levels: Sequence[Measured]
    ) -> list[dict[str, Any]]:
        """The new outcomes' columns, in order.

        Raises:
            InvalidRequest: a level measured nothing.
            NotFound: nothing can be predicted of this revision.
        """
        rows = []
        for level in levels:
            load = Load.of(level.statistics)
            if load is None or level.statistics.n == 0:
                raise InvalidRequest("a level of the load test measured no streamed request")
            forecast = await self._forecasts.forecast(endpoint.id, endpoint.revision, load)
            if forecast is None:
                raise NotFound(
                    "nothing can be predicted of this endpoint: it must run, and its model and "
                    "its accelerator must be known (`foundry budsim catalogue`)"
                )
            source: Source = "load_test"
            window = {
                "tenant_id": endpoint.tenant_id,
                "endpoint_id": endpoint.id,
                "revision": endpoint.revision,
                "source": source,
                "started_at": level.started_at,
                "window_s": level.duration_s,
                "engine_version": forecast.engine_version,
            }
            rows.append(outcome_values(window, forecast, load, level.statistics))
        async with self._database.begin() as db:
            for row in rows:
                await OutcomeRows(db).put(row)
            await recalibrate(db, utcnow())
        return rows
