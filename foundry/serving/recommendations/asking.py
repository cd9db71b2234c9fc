"""What one caller asks of budsim: transactions for what is stored, threads for what is computed."""

from collections.abc import Mapping
from typing import cast
from uuid import UUID

from foundry.errors import Conflict
from foundry.governance.identity.domain import Principal
from foundry.serving.recommendations import numerics, simulating
from foundry.serving.recommendations.domain import RecommendationState
from foundry.serving.recommendations.learning import Learnt
from foundry.serving.recommendations.running import Searches
from foundry.serving.recommendations.schemas import (
    ClusterIn,
    ModelIn,
    PredictIn,
    RecommendationCreate,
    SimulateIn,
    ValidateIn,
)
from foundry.serving.recommendations.service import Recommendation, Subject


class Desk:
    """No transaction is open while numbers are computed."""

    def __init__(self, searches: Searches, principal: Principal, request_id: str) -> None:
        self._searches = searches
        self._principal = principal
        self._request_id = request_id

    async def recommend(self, question: RecommendationCreate, wait_s: float) -> Recommendation:
        return await self._searches.ask(self._principal, self._request_id, question, wait_s)

    async def recommendation(self, recommendation_id: UUID, wait_s: float) -> Recommendation:
        return await self._searches.wait_until_settled(self._principal, recommendation_id, wait_s)

    async def pareto(self, recommendation_id: UUID) -> list[dict[str, object]]:
        """Configurations that no other beats. Raises Conflict: there is no answer, or not yet."""
        row = await self.recommendation(recommendation_id, 0)
        if row.state != RecommendationState.DONE or row.result is None:
            raise Conflict(f"recommendation {row.id} is {row.state}: it has no alternatives yet")
        choices = [row.result["choice"], *cast(list[object], row.result["alternatives"])]
        return [cast(dict[str, object], choice) for choice in choices if choice is not None]

    async def predict(self, asked: PredictIn) -> bytes:
        """JSON of a `PredictionList`: ten thousand of them are made in a thread."""
        subject, prices, learnt = await self._facts(asked)
        found = await self._searches.threads.run(
            numerics.predict_json, subject.config, subject.checkpoint_bytes, prices, asked, learnt
        )
        self._searches.meter.count_predictions(len(asked.configurations))
        return found

    async def validate(self, asked: ValidateIn) -> dict[str, object]:
        """Predict a deployment. Raises InvalidConfiguration, with every rule that it breaks."""
        subject, prices, learnt = await self._facts(asked)
        cluster = await self._cluster(asked.cluster)
        return await self._searches.threads.run(
            numerics.validate_deployment,
            subject.config,
            subject.checkpoint_bytes,
            prices,
            asked.model_copy(update={"cluster": cluster}),
            learnt,
        )

    async def simulate(self, asked: SimulateIn) -> dict[str, object]:
        subject, prices, learnt = await self._facts(asked)
        return await self._searches.threads.run(
            simulating.simulate_deployment,
            subject.config,
            subject.checkpoint_bytes,
            prices,
            asked,
            learnt,
        )

    async def catalogue(self) -> dict[str, object]:
        async with self._searches.recommendations(self._principal) as recommendations:
            prices = await recommendations.read_prices()
            version = await recommendations.read_price_version()
            learnt = await recommendations.read_learnt()
        found = await self._searches.threads.run(numerics.list_catalogue, prices, learnt)
        return {**found, "price_version": version}

    async def _facts(self, model: ModelIn) -> tuple[Subject, Mapping[str, float], Learnt]:
        numerics.require_libraries()
        async with self._searches.recommendations(self._principal) as recommendations:
            subject = await recommendations.find_subject(model)
            return subject, await recommendations.read_prices(), await recommendations.read_learnt()

    async def _cluster(self, given: ClusterIn | None) -> ClusterIn:
        async with self._searches.recommendations(self._principal) as recommendations:
            return await recommendations.choose_cluster(given)
