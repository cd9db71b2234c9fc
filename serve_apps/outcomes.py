"""The closed loop's share of the supervisor: windows to outcomes, and nightly reviews."""

from foundry.config import Settings
from foundry.infra.database import Database
from foundry.infra.wiring import open_objects
from foundry.outcomes.advising import SearchingAdvisor
from foundry.outcomes.closing import current_learnt
from foundry.outcomes.disturbances import AuditedMoves
from foundry.outcomes.expecting import Expectations
from foundry.outcomes.forecasting import PredictorForecasts
from foundry.outcomes.reviewing import review_deployments
from foundry.outcomes.service import Closing
from foundry.recommendations.running import Searches
from foundry.workers.search import RayCluster, RaySearcher
from foundry.workers.supervisor import Chore
from serve_apps.accuracy import Accuracy
from serve_apps.versions import engine_version


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

    return [Chore(close, settings.outcomes.close_s), Chore(review, settings.outcomes.review_s)]
