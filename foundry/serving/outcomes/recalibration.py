"""A client's load test: what it measured, beside what was predicted, and what follows from it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from foundry.errors import Conflict
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database, utcnow
from foundry.infra.objects import ObjectStore
from foundry.serving.endpoints.service import EndpointSnapshot, list_unsettled_endpoints
from foundry.serving.outcomes.domain import Forecasts, Statistics
from foundry.serving.outcomes.schemas import (
    BiasOut,
    ComparisonOut,
    LevelIn,
    LoadTestIn,
    RecalibrationOut,
)
from foundry.serving.outcomes.service import LoadTests, Measured, Outcomes


class Recalibration:
    """One caller's. No transaction is open while something is predicted."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        forecasts: Forecasts,
        principal: Principal,
        request_id: str,
    ) -> None:
        self._objects = objects
        self._database = database
        self._forecasts = forecasts
        self._principal = principal
        self._request_id = request_id

    async def run(self, test: LoadTestIn | None) -> RecalibrationOut:
        """Record the load test, if any, and compute the corrections.

        Raises:
            Conflict: the endpoint does not run, or is not the caller's.
            NotFound: nothing can be predicted of it.
        """
        rows = await self._recorded(test) if test is not None else []
        async with self._database.begin() as db:
            audit = AuditTrail(db, self._principal, self._request_id)
            biases = await Outcomes(db, self._objects, audit, self._principal).recalibrate()
            found = [BiasOut.model_validate(bias) for bias in biases]
        return RecalibrationOut(levels=[_comparison(row) for row in rows], biases=found)

    async def _recorded(self, test: LoadTestIn) -> Sequence[Mapping[str, Any]]:
        endpoint = await self._endpoint(test)
        return await LoadTests(self._database, self._forecasts).record(
            endpoint, [_measured(level, _ahead(test)) for level in test.levels]
        )

    async def _endpoint(self, test: LoadTestIn) -> EndpointSnapshot:
        for endpoint in await list_unsettled_endpoints(self._database):
            mine = (self._principal.tenant_id, self._principal.project_id)
            if (
                endpoint.id == test.endpoint_id
                and (endpoint.tenant_id, endpoint.project_id) == mine
            ):
                return endpoint
        raise Conflict(
            f"endpoint {test.endpoint_id} does not run: `foundry endpoints list` shows yours"
        )


def _ahead(test: LoadTestIn) -> timedelta:
    """How far the client's clock is ahead of ours: no window may be newer than now."""
    ends = [level.started_at + timedelta(seconds=level.duration_s) for level in test.levels]
    return max(max(ends) - utcnow(), timedelta(0))


def _measured(level: LevelIn, ahead: timedelta) -> Measured:
    statistics = Statistics(busy_s=level.duration_s, errors=level.errors)
    for request in level.requests:
        statistics.answered(
            request.input_tokens, request.output_tokens, request.ttft_s, request.duration_s
        )
        statistics.in_flight_s += request.duration_s
    return Measured(level.started_at - ahead, level.duration_s, statistics)


def _comparison(row: Mapping[str, Any]) -> ComparisonOut:
    return ComparisonOut(
        concurrency=row["load"]["concurrency"],
        predicted=row["predicted"],
        actual=row["actual"],
        covered=row["covered"],
    )
