"""The closed loop's share of the supervisor: windows to outcomes, and nightly reviews."""

from functools import partial

from foundry.config import Settings
from foundry.execution.workers.live_cluster import RayCluster
from foundry.execution.workers.search import RaySearcher
from foundry.infra.database import Database
from foundry.infra.wiring import open_objects
from foundry.monitoring.accuracy import Accuracy
from foundry.serving.engine.version import engine_version
from foundry.serving.outcomes.advising import SearchingAdvisor
from foundry.serving.outcomes.closing import Closing, read_learnt
from foundry.serving.outcomes.disturbances import AuditedMoves
from foundry.serving.outcomes.expecting import Expectations
from foundry.serving.outcomes.forecasting import PredictorForecasts
from foundry.serving.outcomes.reviewing import review_deployments
from foundry.serving.recommendations.running import Searches
from foundry.supervisor.closed_loop import ClosedLoop
from foundry.supervisor.loop import Chore


def outcome_chores(settings: Settings, database: Database) -> list[Chore]:
    objects, cluster = open_objects(settings), RayCluster()
    forecasts = PredictorForecasts(database, objects, settings.serving, engine_version(), cluster)
    searches = Searches(database, objects, searcher=RaySearcher(), live=cluster, learnt=read_learnt)
    advisor = SearchingAdvisor(database, searches, forecasts)
    return ClosedLoop(
        Closing(
            database,
            forecasts,
            AuditedMoves(database),
            min_requests=settings.outcomes.min_requests,
        ),
        Expectations(database, forecasts),
        Accuracy(database),
        partial(review_deployments, database, advisor),
        close_s=settings.outcomes.close_s,
        review_s=settings.outcomes.review_s,
    ).list_chores()
