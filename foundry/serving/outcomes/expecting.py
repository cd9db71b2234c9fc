"""What is expected of deployments that nobody had predicted: plain ones, with defaults."""

import logging
from uuid import UUID

from foundry.errors import DatabaseUnavailable, FoundryError, Unavailable
from foundry.infra.database import Database
from foundry.serving.endpoints.domain import SERVING
from foundry.serving.endpoints.service import list_unsettled_endpoints
from foundry.serving.outcomes.domain import Forecasts, Load
from foundry.serving.recommendations import numerics
from foundry.serving.recommendations.service import Approved, find_prediction, record_prediction

log = logging.getLogger(__name__)

# The load that a deployment is designed for where its owner names none: eight people who chat,
# as the median of public traces has it (about 1,000 tokens in, 130 out).
DESIGN_LOAD = Load(
    concurrency=8.0,
    input_mean=1024.0,
    input_p50=1024.0,
    input_p95=1024.0,
    output_mean=128.0,
    output_p50=128.0,
    output_p95=128.0,
)


class Expectations:
    """Logs a prediction of every running revision that has none.

    Level-triggered: a revision that could not be predicted is tried again after a restart.
    """

    def __init__(self, database: Database, forecasts: Forecasts) -> None:
        self._database = database
        self._forecasts = forecasts
        self._hopeless: set[tuple[UUID, int]] = set()

    async def predict_missing(self) -> int:
        """Predict every running revision without a prediction. Returns how many were made."""
        made = 0
        for endpoint in await list_unsettled_endpoints(self._database):
            which = (endpoint.id, endpoint.revision)
            if endpoint.state not in SERVING or which in self._hopeless:
                continue
            try:
                made += await self._expect(endpoint.tenant_id, *which)
            except DatabaseUnavailable:
                raise
            except Unavailable as error:
                # Of the cluster or the store, not of the model: the next turn tries again.
                log.warning("nothing is predicted of %s yet: %s", endpoint.name, error.message)
            except FoundryError as error:
                self._hopeless.add(which)
                log.warning("nothing is predicted of endpoint %s: %s", endpoint.name, error.message)
            except Exception:
                # Of this endpoint alone, whatever a library raises: the others are predicted.
                self._hopeless.add(which)
                log.exception("nothing is predicted of endpoint %s", endpoint.name)
        return made

    async def _expect(self, tenant_id: UUID, endpoint_id: UUID, revision: int) -> bool:
        async with self._database.begin() as db:
            if await find_prediction(db, endpoint_id, revision) is not None:
                return False
        forecast = await self._forecasts.forecast(endpoint_id, revision, DESIGN_LOAD)
        if forecast is None:
            return False
        found: dict[str, object] = {
            name: numerics.to_plain({"low": low, "point": point, "high": high})
            for name, (low, point, high) in forecast.predicted.items()
        }
        found["cost_per_hour"] = forecast.cost_per_hour
        expectation = Approved(
            recommendation_id=None,
            configuration=forecast.configuration,
            workload=DESIGN_LOAD.workload(),
            predicted=found,
            model_version=forecast.predictor_version,
        )
        async with self._database.begin() as db:
            if await find_prediction(db, endpoint_id, revision) is not None:
                return False
            await record_prediction(db, tenant_id, endpoint_id, revision, expectation)
        return True
