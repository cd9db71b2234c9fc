"""The supervisor's side: finished windows become outcomes, outcomes become corrections."""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.engines.budsim.loop import Bias, Correction, Staleness, Window, staleness
from foundry.errors import DatabaseUnavailable, FoundryError
from foundry.infra.database import Database, utcnow
from foundry.infra.ids import uuid7
from foundry.serving.outcomes.domain import (
    Disturbances,
    Forecast,
    Forecasts,
    Load,
    Source,
    Statistics,
    WindowPart,
    configuration_digest,
    merge_statistics,
)
from foundry.serving.outcomes.repository import (
    AlarmRows,
    BiasRows,
    ModelRows,
    OutcomeRows,
    WindowRows,
)
from foundry.serving.outcomes.tables import (
    BudsimAlarm,
    BudsimBias,
    EndpointWindow,
    PredictionOutcome,
)
from foundry.serving.recommendations.learning import Learnt, TrainedModel

log = logging.getLogger(__name__)

# A gateway writes every few seconds; after this a finished window is taken as it is.
LATE = timedelta(seconds=60)
KEPT = timedelta(days=30)
# Beyond it the survivors' latencies say nothing about the configuration.
MAX_ERROR_SHARE = 0.05
_BATCH = 200
# Per GPU, engine and version; the alarm looks at 100, the corrections at 100 of a version.
_NEWEST = 200
# Six half-lives: what is older weighs less than a sixtieth.
RECENT = timedelta(days=180)

Pair = tuple[str, str, str]


class GatewayWindows:
    """Where gateways write what they measured."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, parts: Sequence[WindowPart]) -> None:
        """Store what a gateway measured. Raises DatabaseUnavailable."""
        async with self._database.begin() as db:
            await WindowRows(db).put(parts)


class Closing:
    """Looks at finished windows; twice, or by two processes, changes nothing.

    Args:
        min_requests: measured requests below which a window says too little.
    """

    def __init__(
        self,
        database: Database,
        forecasts: Forecasts,
        disturbances: Disturbances,
        *,
        min_requests: int,
    ) -> None:
        self._database = database
        self._forecasts = forecasts
        self._disturbances = disturbances
        self._min_requests = min_requests

    async def close_windows(self, now: datetime | None = None) -> int:
        """Close what has ended. Returns the number of new outcomes; corrections follow them."""
        now, made = now or utcnow(), 0
        while keys := await self._ended(now):
            for key in keys:
                made += await self._close(*key)
        if made:
            async with self._database.begin() as db:
                await recalibrate(db, now)
        return made

    async def _ended(self, now: datetime) -> list[tuple[UUID, int, datetime]]:
        async with self._database.begin() as db:
            rows = WindowRows(db)
            await rows.forget(now - KEPT)
            parts = await rows.list_oldest_open(now - LATE, _BATCH)
        return sorted({(part.endpoint_id, part.revision, part.started_at) for part in parts})

    async def _close(self, endpoint_id: UUID, revision: int, started_at: datetime) -> bool:
        async with self._database.begin() as db:
            parts = await WindowRows(db).list_parts(endpoint_id, revision, started_at)
        outcome = await self._outcome(parts)
        async with self._database.begin() as db:
            await WindowRows(db).close(endpoint_id, revision, started_at)
            return outcome is not None and await OutcomeRows(db).put(outcome)

    async def _outcome(self, parts: Sequence[EndpointWindow]) -> dict[str, Any] | None:
        """None: the window says nothing about a prediction."""
        first = parts[0]
        statistics = merge_statistics(Statistics.of_json(part.statistics) for part in parts)
        load = Load.of(statistics)
        versions = {part.engine_version for part in parts}
        if (
            load is None
            or statistics.n < self._min_requests
            or statistics.error_share > MAX_ERROR_SHARE
            or len(versions) > 1
        ):
            return None
        until = first.started_at + timedelta(seconds=first.window_s)
        if await self._disturbances.was_disturbed(
            first.tenant_id, first.endpoint_id, first.started_at, until
        ):
            return None
        forecast = await self._forecast(first, load)
        if forecast is None:
            return None
        return outcome_values(_of_gateway(first), forecast, load, statistics)

    async def _forecast(self, first: EndpointWindow, load: Load) -> Forecast | None:
        try:
            return await self._forecasts.forecast(first.endpoint_id, first.revision, load)
        except DatabaseUnavailable:
            raise
        except FoundryError as error:
            log.warning("nothing is predicted of endpoint %s: %s", first.endpoint_id, error.message)
        except Exception:
            # Of this endpoint alone: the others' windows are closed all the same.
            log.exception("nothing is predicted of endpoint %s", first.endpoint_id)
        return None


def _of_gateway(first: EndpointWindow) -> dict[str, Any]:
    source: Source = "gateway"
    return {
        "tenant_id": first.tenant_id,
        "endpoint_id": first.endpoint_id,
        "revision": first.revision,
        "source": source,
        "started_at": first.started_at,
        "window_s": first.window_s,
        "engine_version": first.engine_version,
    }


def outcome_values(
    window: Mapping[str, Any], forecast: Forecast, load: Load, statistics: Statistics
) -> dict[str, Any]:
    """The columns of an outcome; `window` says whose, when and from where."""
    actual = statistics.actual()
    # JSON knows no infinity: an overloaded configuration has no finite latency to compare.
    predicted = {
        name: ends for name, ends in forecast.predicted.items() if all(map(math.isfinite, ends))
    }
    covered = {
        name: low <= actual[name] <= high
        for name, (low, _, high) in predicted.items()
        if name in actual
    }
    return {
        **window,
        "id": uuid7(),
        "gpu": forecast.gpu,
        "engine": forecast.engine,
        "configuration": forecast.configuration,
        "configuration_digest": configuration_digest(forecast.configuration),
        "point": forecast.point,
        "predictor_version": forecast.predictor_version,
        "load": asdict(load),
        "predicted": {name: list(ends) for name, ends in predicted.items()},
        "applied": {name: list(pair) for name, pair in forecast.applied.items()},
        "actual": actual,
        "covered": covered,
        "n": statistics.n,
        "created_at": utcnow(),
    }


async def recalibrate(db: AsyncSession, now: datetime) -> Bias:
    """Compute this site's corrections and alarms anew from its outcomes, and keep them."""
    await BiasRows(db).lock()
    rows = await OutcomeRows(db).list_newest(_NEWEST, now - RECENT)
    windows = [window_of(row) for row in rows]
    await AlarmRows(db).replace(_alarms(windows))
    bias = Bias.of(windows, now.timestamp())
    await BiasRows(db).replace(
        [
            BudsimBias(
                gpu=gpu,
                engine=engine,
                engine_version=version,
                target=target,
                factor=correction.factor,
                spread=correction.spread,
                windows=correction.windows,
                measured_at=datetime.fromtimestamp(correction.measured_at, UTC),
                updated_at=now,
            )
            for (gpu, engine, version, target), correction in bias.cells.items()
        ]
    )
    return bias


def _alarms(windows: Sequence[Window]) -> list[BudsimAlarm]:
    """Of the engine version that was measured last: predictions are corrected for that one."""
    found = []
    for (gpu, engine, version), members in _by_pair(windows).items():
        newest = max(
            (window for window in windows if (window.gpu, window.engine) == (gpu, engine)),
            key=lambda window: window.started_at,
        )
        alarm = staleness(members)
        if alarm.stale and newest.engine_version == version:
            found.append(
                BudsimAlarm(gpu=gpu, engine=engine, engine_version=version, reason=alarm.reason)
            )
    return found


def _by_pair(windows: Sequence[Window]) -> dict[Pair, list[Window]]:
    pairs: dict[Pair, list[Window]] = defaultdict(list)
    for window in windows:
        pairs[window.gpu, window.engine, window.engine_version].append(window)
    return dict(sorted(pairs.items()))


async def read_learnt(db: AsyncSession) -> Learnt:
    """What every prediction of this site applies: corrections, alarms and the active model."""
    active = await ModelRows(db).find_active()
    own = active is not None and active.digest != ""
    return Learnt(
        bias=await read_bias(db),
        model=TrainedModel(active.version, active.digest) if active and own else None,
        stale={(row.gpu, row.engine): row.reason for row in await AlarmRows(db).list_all()},
    )


async def read_bias(db: AsyncSession) -> Bias:
    """The corrections that every prediction of this site applies."""
    return Bias(
        {
            (row.gpu, row.engine, row.engine_version, row.target): Correction(
                row.factor, row.spread, row.windows, row.measured_at.timestamp()
            )
            for row in await BiasRows(db).list_all()
        }
    )


async def measure_staleness(
    db: AsyncSession, tenant_id: UUID | None = None
) -> dict[Pair, Staleness]:
    """The alarm of every GPU, engine and engine version that has outcomes."""
    rows = await OutcomeRows(db).list_newest(_NEWEST, utcnow() - RECENT, tenant_id)
    windows = _by_pair([window_of(row) for row in rows])
    return {pair: staleness(found) for pair, found in windows.items()}


def window_of(row: PredictionOutcome) -> Window:
    predicted = cast(dict[str, list[float]], row.predicted)
    applied = cast(dict[str, list[float]], row.applied)
    return Window(
        endpoint=str(row.endpoint_id),
        gpu=row.gpu,
        engine=row.engine,
        engine_version=row.engine_version,
        n=row.n,
        predicted={name: (low, point, high) for name, (low, point, high) in predicted.items()},
        actual=cast(dict[str, float], row.actual),
        started_at=row.started_at.timestamp(),
        applied={name: (factor, spread) for name, (factor, spread) in applied.items()},
    )
