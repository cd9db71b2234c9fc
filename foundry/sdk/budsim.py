"""budsim: the configuration that meets the targets for the least money."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from foundry.engines.budsim.request import Method
from foundry.errors import Conflict
from foundry.sdk._lookup import Kind, build_lookup, parse_id
from foundry.sdk._transport import (
    AsyncSender,
    Call,
    Resource,
    S_co,
    SyncSender,
    operation,
    pages,
    path,
)
from foundry.sdk._waiting import POLL_S, Patience, until, until_async
from foundry.sdk.paging import Listed, Page
from foundry.serving.recommendations.hardware_schemas import (
    CatalogueOut,
    PricesIn,
    PricesOut,
    ProbedOut,
)
from foundry.serving.recommendations.schemas import (
    ENDED,
    ClusterIn,
    ConfigurationIn,
    PolicyIn,
    PredictIn,
    PredictionList,
    PredictionOut,
    RecommendationCreate,
    RecommendationOut,
    SimulateIn,
    SimulationOut,
    TargetsIn,
    TraceRow,
    ValidateIn,
    ValidationOut,
    WorkloadIn,
)

# A registry reference, or a `config.json` as it is.
Model = str | Mapping[str, object]
Fields = Mapping[str, object]
# An accelerator of the catalogue, or one of the answers to a question.
Row = dict[str, object]


class Predictions(PredictionList, Listed[PredictionOut]):
    """One for each configuration, in their order."""


class Catalogue(CatalogueOut, Listed[Row]):
    """Every accelerator that budsim knows."""


def _write_model(model: Model) -> dict[str, object]:
    return {"model": model} if isinstance(model, str) else {"config": dict(model)}


def _drop_unset(**fields: object) -> dict[str, Any]:
    """Without what is None, so that the server's defaults count."""
    return {name: value for name, value in fields.items() if value is not None}


_RECOMMENDATION = Kind(
    noun="recommendation",
    route=("budsim", "recommendations"),
    page=Page[RecommendationOut],
    row=RecommendationOut,
    name_of=lambda recommendation: recommendation.model,
    listing="foundry budsim list",
    none_yet="there are no recommendations yet: foundry budsim recommend",
)


class Budsim(Resource[S_co]):
    @operation("budsim_recommend")
    def recommend(
        self,
        model: Model,
        workload: WorkloadIn | Fields,
        *,
        cluster: ClusterIn | Fields | None = None,
        targets: TargetsIn | Fields | None = None,
        policy: PolicyIn | Fields | None = None,
        method: Method = "REGRESSOR",
        checkpoint_bytes: int | None = None,
        wait: int = 10,
    ) -> Call[RecommendationOut]:
        """The cheapest configuration that meets the targets; equal questions share an answer.

        Args:
            model: a registry reference, or a `config.json` as it is.
            cluster: None: the server's live cluster.
            wait: seconds, 30 at most; an answer that takes longer is still PENDING or RUNNING.
        """
        body = RecommendationCreate.model_validate(
            _drop_unset(
                **_write_model(model),
                workload=workload,
                cluster=cluster,
                targets=targets,
                policy=policy,
                method=method,
                checkpoint_bytes=checkpoint_bytes,
            )
        )
        route = path("budsim", "recommendations")
        return Call("POST", route, RecommendationOut, {"wait": wait}, body)

    @operation("budsim_recommendation")
    def recommendation(
        self, recommendation_id: UUID | str, *, wait: int = 0
    ) -> Call[RecommendationOut]:
        """One recommendation.

        Args:
            recommendation_id: its id, a beginning of the id (8 characters), its model (of several
                recommendations the newest is meant), or `last`.
            wait: seconds for which the answer may be waited for.
        Raises NotFound: nothing is called so.
        Raises Conflict: several ids begin so, or `wait` is given without a whole id.
        """
        if wait and parse_id(recommendation_id) is None:
            raise Conflict("wait takes a whole id: `budsim.wait` waits for any reference")
        return build_lookup(_RECOMMENDATION, recommendation_id, {"wait": wait})

    @pages("budsim_recommendations")
    def recommendations(
        self, *, ref: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Call[Page[RecommendationOut]]:
        """One page, newest first. Args: ref: only those for this model, or whose id begins so."""
        query = {"ref": ref, "cursor": cursor, "limit": limit}
        return Call("GET", path("budsim", "recommendations"), Page[RecommendationOut], query)

    @operation("budsim_pareto")
    def pareto(self, recommendation_id: UUID | str) -> Call[Listed[Row]]:
        """The answers between which only taste decides: cheaper, sooner, or more."""
        return Call(
            "GET", path("budsim", "recommendations", recommendation_id, "pareto"), Listed[Row]
        )

    @operation("budsim_predict")
    def predict(
        self,
        model: Model,
        configurations: Sequence[ConfigurationIn | Fields],
        workload: WorkloadIn | Fields,
        *,
        cluster: ClusterIn | Fields | None = None,
        method: Method = "REGRESSOR",
        confidence: float = 0.9,
        checkpoint_bytes: int | None = None,
    ) -> Call[Predictions]:
        """What each of up to 10,000 configurations would do, in their order."""
        body = PredictIn.model_validate(
            _drop_unset(
                **_write_model(model),
                configurations=list(configurations),
                workload=workload,
                cluster=cluster,
                method=method,
                confidence=confidence,
                checkpoint_bytes=checkpoint_bytes,
            )
        )
        return Call("POST", path("budsim", "predict"), Predictions, body=body)

    @operation("budsim_validate")
    def validate(
        self,
        model: Model,
        deployment: str | Fields,
        workload: WorkloadIn | Fields,
        *,
        cluster: ClusterIn | Fields | None = None,
        targets: TargetsIn | Fields | None = None,
        policy: PolicyIn | Fields | None = None,
        method: Method = "REGRESSOR",
        checkpoint_bytes: int | None = None,
    ) -> Call[ValidationOut]:
        """Check a manual deployment, YAML text or a mapping.

        Raises InvalidConfiguration: `details["violations"]` lists each path and reason.
        """
        body = ValidateIn.model_validate(
            _drop_unset(
                **_write_model(model),
                deployment=deployment,
                workload=workload,
                cluster=cluster,
                targets=targets,
                policy=policy,
                method=method,
                checkpoint_bytes=checkpoint_bytes,
            )
        )
        return Call("POST", path("budsim", "validate"), ValidationOut, body=body)

    @operation("budsim_simulate")
    def simulate(
        self,
        model: Model,
        configuration: ConfigurationIn | Fields,
        *,
        trace: Sequence[TraceRow | Fields] | None = None,
        workload: WorkloadIn | Fields | None = None,
        requests: int = 2000,
        seed: int = 0,
        checkpoint_bytes: int | None = None,
    ) -> Call[SimulationOut]:
        """Replay a trace, or a synthetic workload, through one configuration."""
        body = SimulateIn.model_validate(
            _drop_unset(
                **_write_model(model),
                configuration=configuration,
                trace=None if trace is None else list(trace),
                workload=workload,
                requests=requests,
                seed=seed,
                checkpoint_bytes=checkpoint_bytes,
            )
        )
        return Call("POST", path("budsim", "simulate"), SimulationOut, body=body, slow=True)

    @operation("budsim_catalogue")
    def catalogue(self) -> Call[Catalogue]:
        """Every accelerator that budsim knows, with the prices that count here."""
        return Call("GET", path("budsim", "catalogue"), Catalogue)

    @operation("budsim_set_prices")
    def set_prices(
        self, prices: Mapping[str, float | None], *, expected_version: int | None = None
    ) -> Call[PricesOut]:
        """$ per hour by catalogue id, for the whole tenant; None: the catalogue's price again."""
        body = PricesIn(prices=dict(prices), expected_version=expected_version)
        return Call("PUT", path("budsim", "prices"), PricesOut, body=body)

    @operation("budsim_probe")
    def probe(self) -> Call[ProbedOut]:
        """Measure a CPU node again; predictions use it in place of the catalogue's numbers."""
        return Call("POST", path("budsim", "probe"), ProbedOut, slow=True)


def _has_ended(found: RecommendationOut) -> bool:
    return found.state in ENDED


class SyncBudsim(Budsim[SyncSender]):
    def wait(
        self,
        recommendation_id: UUID | str,
        on_update: Callable[[RecommendationOut], None] | None = None,
        *,
        poll_s: float = POLL_S,
        timeout_s: float | None = None,
    ) -> RecommendationOut:
        """The recommendation once its search has ended. Outlasts a server that restarts.

        Raises DeadlineExceeded: `timeout_s` have passed; the search goes on.
        """
        patience = Patience(f"recommendation {recommendation_id}", timeout_s)
        return until(
            self.recommendation, recommendation_id, _has_ended, on_update, patience, poll_s
        )


class AsyncBudsim(Budsim[AsyncSender]):
    async def wait(
        self,
        recommendation_id: UUID | str,
        on_update: Callable[[RecommendationOut], None] | None = None,
        *,
        poll_s: float = POLL_S,
        timeout_s: float | None = None,
    ) -> RecommendationOut:
        """Wait for the end of a search; see `SyncBudsim.wait`."""
        patience = Patience(f"recommendation {recommendation_id}", timeout_s)
        return await until_async(
            self.recommendation, recommendation_id, _has_ended, on_update, patience, poll_s
        )
