"""The closed loop's share of the supervisor: windows to outcomes, and nightly reviews."""

from foundry.config import Settings
from foundry.execution.workers.search import RayCluster, RaySearcher
from foundry.infra.database import Database
from foundry.infra.wiring import open_objects
from foundry.monitoring.accuracy import Accuracy
from foundry.serving.engine.version import engine_version
from foundry.serving.outcomes.advising import SearchingAdvisor
from foundry.serving.outcomes.closing import current_learnt
from foundry.serving.outcomes.disturbances import AuditedMoves
from foundry.serving.outcomes.expecting import Expectations
from foundry.serving.outcomes.forecasting import PredictorForecasts
from foundry.serving.outcomes.reviewing import review_deployments
from foundry.serving.outcomes.service import Closing
from foundry.serving.recommendations.running import Searches
from foundry.supervisor.loop import Chore

# A search for each endpoint that runs, one after the other, half a minute each on two cores.
_REVIEWS_DEADLINE_S = 6 * 3600.0


def outcome_chores(settings: Settings, database: Database) -> list[Chore]:
    objects, cluster = open_objects(settings), RayCluster()
    forecasts = PredictorForecasts(database, objects, settings.serving, engine_version(), cluster)
    closing = Closing(
        database,
        forecasts,
        AuditedMoves(database),
        min_requests=settings.outcomes.min_requests,
    )
    accuracy = Accuracy(database)
    searches = Searches(
        database, objects, searcher=RaySearcher(), live=cluster, learnt=current_learnt
    )
    advisor = SearchingAdvisor(database, objects, searches, forecasts)

    async def review() -> None:
        await review_deployments(database, advisor)

    expectations = Expectations(database, forecasts)

    async def close() -> None:
        await expectations.complete()
        if await closing.close_windows() and await accuracy.publish():
            await review()

    return [
        Chore("outcomes", close, settings.outcomes.close_s),
        Chore("reviews", review, settings.outcomes.review_s, _REVIEWS_DEADLINE_S),
    ]
