"""From a configuration to a revision, on a real PostgreSQL; searches are scripted."""

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.service import Registry
from foundry.errors import Conflict, InvalidRequest
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from foundry.serving.endpoints.domain import EndpointState as S
from foundry.serving.endpoints.schemas import EndpointConfigure
from foundry.serving.endpoints.service import Endpoints, list_unsettled_endpoints
from foundry.serving.endpoints.tables import Endpoint
from foundry.serving.recommendations.running import Searches
from foundry.serving.recommendations.service import (
    EndpointPrediction,
    Recommendations,
    find_prediction,
)
from tests.governance.identity.principals import principal
from tests.serving.endpoints.cluster import run_endpoints
from tests.serving.endpoints.test_service import Floor
from tests.serving.recommendations.questions import (
    CLUSTER,
    ENDPOINT_CONFIG,
    WORKLOAD,
    FakeSearcher,
    answer,
)

pytestmark = pytest.mark.postgres


class Studio(Floor):
    """Endpoints that are configured, by one caller."""

    def __init__(self, database: Database, root: Path) -> None:
        super().__init__(database, root, principal())
        self.searcher = FakeSearcher()
        self.searches = Searches(database, self.desk.objects, searcher=self.searcher)

    async def configure(self, endpoint_id: UUID, **wanted: object) -> Endpoint:
        """Also lets the search end, if there is one."""
        async with self.database.begin() as db:
            audit = AuditTrail(db, self.caller, "test")
            registry = Registry(db, audit, self.caller)
            endpoints = Endpoints(db, audit, self.caller, registry)
            recommendations = Recommendations(db, self.desk.objects, audit, self.caller)
            body = EndpointConfigure.model_validate(wanted)
            endpoint = await endpoints.configure(endpoint_id, body, recommendations)
        if endpoint.recommendation_id is not None:
            await self.searches.wait_until_settled(self.caller, endpoint.recommendation_id, 10)
        return endpoint

    def registry(self, db: AsyncSession, audit: AuditTrail) -> Registry:
        return Registry(db, audit, self.caller)

    async def optimise(self, endpoint_id: UUID, **targets: float) -> Endpoint:
        return await self.configure(
            endpoint_id, performance_targets=targets, workload=WORKLOAD, cluster=CLUSTER
        )

    async def deploy(self, endpoint_id: UUID, reviewed: UUID | None = None) -> Endpoint:
        return (await self.call(lambda e: e.deploy(endpoint_id, reviewed))).row

    async def predicted(self, endpoint: Endpoint) -> EndpointPrediction | None:
        async with self.database.begin() as db:
            return await find_prediction(db, endpoint.id, endpoint.revision)


@pytest.fixture
async def studio(database: Database, tmp_path: Path) -> Studio:
    made = Studio(database, tmp_path)
    await made.models()
    return made


async def _created(studio: Studio, **config: Any) -> Endpoint:
    endpoint, _ = await studio.call(lambda e: e.create("smol", config=config))
    return endpoint


async def test_a_recommendation_runs_only_when_it_is_approved(studio: Studio) -> None:
    endpoint = await _created(studio, max_loras=3, max_model_len=64)
    configured = await studio.optimise(endpoint.id, max_ttft_ms=500)
    assert (configured.state, configured.config) == (
        S.CONFIGURED,
        {"max_loras": 3, "max_model_len": 64},
    )
    assert configured.optimization is not None
    assert configured.optimization["method"] == "REGRESSOR"
    deployed = await studio.deploy(endpoint.id, configured.recommendation_id)
    # What the optimiser does not decide stays as the user had it.
    assert deployed.config == {"max_loras": 3, **ENDPOINT_CONFIG}
    assert (deployed.revision, deployed.config_generation) == (1, 2)
    (seen,) = await list_unsettled_endpoints(studio.database)
    assert (seen.config, seen.serving, seen.target) == (deployed.config, None, 1)
    row = await studio.predicted(deployed)
    assert row is not None
    assert (row.recommendation_id, row.configuration) == (
        configured.recommendation_id,
        ENDPOINT_CONFIG,
    )
    assert row.predicted == {"tpot_ms": {"low": 10.0, "point": 12.0, "high": 15.0}}
    assert row.workload["users"] == 16
    assert row.model_version


async def test_new_targets_replace_a_running_engine(studio: Studio) -> None:
    endpoint = await _created(studio)
    await studio.optimise(endpoint.id, max_ttft_ms=500)
    first = await studio.deploy(endpoint.id)
    await studio.run(first)
    # Workload and cluster are those of the last time.
    again = await studio.configure(endpoint.id, performance_targets={"max_ttft_ms": 100})
    assert (again.state, again.revision) == (S.RUNNING, 1)
    asked = studio.searcher.asked[-1].request
    assert (asked.targets.max_ttft_ms, asked.workload.users) == (100, 16)
    second = await studio.deploy(endpoint.id)
    assert (second.state, second.serving_revision, second.target_revision) == (S.UPDATING, 1, 2)
    # Requests reach the first engine until the second has answered.
    assert second.app_name == first.app_name
    # Nothing new was configured since: what starts is left alone.
    assert (await studio.deploy(endpoint.id)).target_revision == 2


async def test_a_revision_of_an_unchanged_configuration_keeps_its_prediction(
    studio: Studio,
) -> None:
    endpoint = await _created(studio)
    await studio.optimise(endpoint.id)
    first = await studio.deploy(endpoint.id)
    await studio.run(first)
    await studio.call(lambda e: e.stop(endpoint.id))
    await run_endpoints(studio.database)
    second = await studio.deploy(endpoint.id)
    row = await studio.predicted(second)
    assert second.revision == 2
    assert row is not None
    assert row.configuration == ENDPOINT_CONFIG
    manual = await studio.configure(endpoint.id, replicas=3, optimization_method="MANUAL")
    assert (manual.next_config, manual.recommendation_id) == ({"replicas": 3}, None)


async def test_a_manual_configuration_replaces_all_options(studio: Studio) -> None:
    endpoint = await _created(studio, max_loras=3)
    await studio.configure(endpoint.id, **ENDPOINT_CONFIG)
    deployed = await studio.deploy(endpoint.id)
    assert deployed.config == ENDPOINT_CONFIG
    assert await studio.predicted(deployed) is None


async def test_what_cannot_be_applied_says_what_to_do(studio: Studio) -> None:
    endpoint = await _created(studio)
    with pytest.raises(InvalidRequest, match="what is smol to carry"):
        await studio.configure(endpoint.id, optimization_method="REGRESSOR")
    studio.searcher.result = answer(feasible=False)
    await studio.optimise(endpoint.id, max_ttft_ms=1)
    with pytest.raises(Conflict, match="max_ttft_ms binds; relax it or enlarge the cluster"):
        await studio.deploy(endpoint.id)
    studio.searcher.result = answer()
    await studio.optimise(endpoint.id, max_ttft_ms=2)
    with pytest.raises(Conflict, match="look at it first"):
        await studio.deploy(endpoint.id, uuid4())
    async with studio.searches.recommendations(studio.caller) as recommendations:
        await recommendations.set_prices({"nvidia-l40s-48gb": 7.0})
    with pytest.raises(Conflict, match="prices or the predictor have changed"):
        await studio.deploy(endpoint.id)
    current = await studio.call(lambda e: e.get(endpoint.id))
    assert (current.state, current.revision, current.config) == (S.CONFIGURED, 0, {})


async def test_a_search_that_goes_on_is_no_recommendation_yet(studio: Studio) -> None:
    endpoint = await _created(studio)
    async with studio.database.begin() as db:
        audit = AuditTrail(db, studio.caller, "test")
        registry = Registry(db, audit, studio.caller)
        body = EndpointConfigure.model_validate(
            {"performance_targets": {}, "workload": WORKLOAD, "cluster": CLUSTER}
        )
        await Endpoints(db, audit, studio.caller, registry).configure(
            endpoint.id, body, Recommendations(db, studio.desk.objects, audit, studio.caller)
        )
    with pytest.raises(Conflict, match="still being searched"):
        await studio.deploy(endpoint.id)
