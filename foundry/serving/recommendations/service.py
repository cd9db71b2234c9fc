"""Recommendations as their askers see them; `running` searches, `numerics` computes."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.documents import read_document
from foundry.catalog.registry.service import Registry
from foundry.engines.model_files import CONFIG, WEIGHTS_SUFFIX
from foundry.errors import Conflict, InvalidArtifact, InvalidRequest, NotFound, Unavailable
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import utcnow
from foundry.infra.objects import ObjectStore
from foundry.serving.recommendations import learning, numerics, trained
from foundry.serving.recommendations.domain import (
    ENDED,
    RecommendationState,
    fingerprint,
)
from foundry.serving.recommendations.learning import Learnt
from foundry.serving.recommendations.repository import (
    HardwareRows,
    PredictionRows,
    RecommendationRows,
)
from foundry.serving.recommendations.schemas import ClusterIn, Demand, ModelIn, RecommendationCreate
from foundry.serving.recommendations.searching import CurrentLearnt, LiveCluster, learn_nothing
from foundry.serving.recommendations.tables import (
    EndpointPrediction,
    PriceList,
    ProbedHardware,
    Recommendation,
)

__all__ = [
    "Approved",
    "EndpointPrediction",
    "PriceList",
    "ProbedHardware",
    "Recommendation",
    "Recommendations",
    "Subject",
    "approve_recommendation",
    "find_prediction",
    "record_prediction",
]


log = logging.getLogger(__name__)

_CPU = "cpu"
# What a probe measures of a node.
_PROBED = ("memory_gb", "bandwidth_gbps", "bf16_tflops", "fp16_tflops", "int8_tops")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model as budsim sees it.

    Attributes:
        reference: of the registry, name@version; None: the caller brought the configuration.
        config: its `config.json`.
        checkpoint_bytes: of its weight files; None: unknown.
    """

    reference: str | None
    config: dict[str, object]
    checkpoint_bytes: int | None


@dataclass(frozen=True, slots=True)
class Approved:
    """A configuration to deploy, and what was predicted of it."""

    recommendation_id: UUID | None
    configuration: dict[str, object]
    workload: dict[str, object]
    predicted: dict[str, object]
    model_version: str


class Recommendations:
    """Recommendations of the principal's project, under its tenant's prices."""

    def __init__(
        self,
        db: AsyncSession,
        objects: ObjectStore,
        audit: AuditTrail,
        principal: Principal,
        live: LiveCluster | None = None,
        learnt: CurrentLearnt = learn_nothing,
    ) -> None:
        self._db = db
        self._learnt = learnt
        self._objects = objects
        self._audit = audit
        self._principal = principal
        self._live = live
        self._registry = Registry(db, audit, principal)
        self._rows = RecommendationRows(db, principal.tenant_id, principal.project_id)

    async def ask(self, question: RecommendationCreate) -> tuple[Recommendation, bool]:
        """A recommendation to come, or the answer that an equal question has. Returns it and
        whether it is new.

        Raises:
            UnsupportedFeature: budsim's libraries are not installed.
            InvalidRequest: no cluster is given and none is live, or no search could answer.
        """
        numerics.require_libraries()
        subject = await self.find_subject(question)
        demand = await self._demand(question)
        prices = await self.read_prices()
        learnt = await self.read_learnt()
        await asyncio.to_thread(numerics.check_request, demand.request(), prices, learnt)
        versions = await asyncio.to_thread(numerics.read_versions, prices, learnt)
        content: dict[str, object] = {
            "config_json": subject.config,
            "checkpoint_bytes": subject.checkpoint_bytes,
            "request": demand.model_dump(mode="json"),
            "catalogue_digest": versions.catalogue,
            "predictor_version": versions.predictor,
        }
        digest = fingerprint({**content, "learnt": learning.digest(learnt)})
        await self._rows.lock_question(digest)
        if same := await self._rows.find_same(digest):
            return same, False
        row = Recommendation(
            tenant_id=self._principal.tenant_id,
            project_id=self._principal.project_id,
            digest=digest,
            method=question.method,
            model=subject.reference,
            prices=prices,
            learnt=learning.to_document(learnt),
            created_by=self._principal.subject,
            **content,
        )
        await self._rows.add(row)
        after: dict[str, object] = {"model": subject.reference, "method": row.method}
        await self._audit.record("recommendation.ask", "recommendation", str(row.id), after=after)
        return row, True

    async def get(self, recommendation_id: UUID) -> Recommendation:
        """A recommendation of the project. Raises NotFound."""
        row = await self._rows.get(recommendation_id)
        if row is None:
            raise NotFound(
                f"there is no recommendation {recommendation_id}: `foundry budsim list` shows yours"
            )
        return row

    async def list_recommendations(
        self,
        *,
        reference: str | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[Recommendation]:
        """Newest first.

        Args:
            reference: a model as it was asked about, or the beginning of an id.
        """
        after = decode(cursor, (UUID,), str(reference))
        before = cast(UUID, after[0]) if after else None
        rows = await self._rows.list_page(reference, before, limit + 1)
        return page_of(rows, limit, lambda row: (row.id,), str(reference))

    async def find_subject(self, model: ModelIn) -> Subject:
        """The model that a question is about.

        Raises:
            ModelNotFound: the registry has none of this name.
            InvalidArtifact: the model has no readable config.json.
            Unavailable: the object store does not answer.
        """
        if model.model is None:
            assert model.config is not None
            return Subject(None, model.config, model.checkpoint_bytes)
        version = await self._registry.resolve(model.model)
        if version.kind == "adapter" and version.base_version_id is not None:
            version = await self._registry.get(version.base_version_id)
        manifest = await self._registry.manifest(version.id)
        config = await read_document(self._objects, manifest, CONFIG)
        if config is None:
            raise InvalidArtifact(
                f"{version.reference} has no readable {CONFIG}: register it with one"
            )
        weights = [file.size for file in manifest.files if file.path.endswith(WEIGHTS_SUFFIX)]
        return Subject(version.reference, config, sum(weights) or None)

    async def choose_cluster(self, given: ClusterIn | None) -> ClusterIn:
        """The given cluster, else the live one."""
        if given is not None:
            return given
        if self._live is None:
            raise InvalidRequest(
                "cluster: this control plane sees no cluster: name its node groups", param="cluster"
            )
        found = (await self._live.describe()).groups
        if any(group.gpu == _CPU for group in found):
            await self._probe_once(self._live)
        groups = [asdict(group) for group in found]
        return ClusterIn.model_validate({"groups": groups})

    async def read_prices(self) -> dict[str, float]:
        """$ per hour by catalogue id: the tenant's own."""
        found = await self._rows.get_prices()
        return {} if found is None else cast(dict[str, float], dict(found.prices))

    async def read_learnt(self) -> Learnt:
        """What the site has learnt, with its model loaded."""
        found = await self._learnt(self._db)
        probed = {row.gpu: row.measured for row in await HardwareRows(self._db).list_all()}
        found = replace(found, probed=cast(dict[str, dict[str, float]], probed))
        await trained.ensure_model(self._objects, found)
        return found

    async def probe(self) -> ProbedHardware:
        """Measure a node without accelerators, and use that from now on.

        Raises:
            InvalidRequest: this control plane sees no cluster.
            Unavailable: no node could be measured.
        """
        if self._live is None:
            raise InvalidRequest("this control plane sees no cluster: there is nothing to measure")
        row = await self._probed(self._live)
        await self._audit.record("hardware.probe", "hardware", row.gpu, after=dict(row.measured))
        return row

    async def _probe_once(self, live: LiveCluster) -> None:
        """At the first use of CPU nodes; without a measurement the catalogue's numbers count."""
        rows = HardwareRows(self._db)
        if await rows.get(_CPU) is not None:
            return
        await rows.lock()
        # Whoever held the lock before may have measured meanwhile.
        if await rows.get(_CPU) is not None:
            return
        try:
            await self._probed(live)
        except Unavailable as error:
            log.warning("the CPU was not probed: %s", error.message)

    async def _probed(self, live: LiveCluster) -> ProbedHardware:
        gpu = await live.probe_cpu()
        measured = learning.round_values({name: getattr(gpu, name) for name in _PROBED})
        row = ProbedHardware(gpu=gpu.id, measured=dict(measured), measured_at=utcnow())
        return await HardwareRows(self._db).put(row)

    async def read_price_version(self) -> int:
        found = await self._rows.get_prices()
        return 0 if found is None else found.version

    async def set_prices(
        self, changes: Mapping[str, float | None], expected_version: int | None = None
    ) -> PriceList:
        """A new version of the tenant's prices; None gives a GPU the catalogue's price again.

        Raises:
            InvalidRequest: the catalogue has no such GPU, or a price is not positive.
            Conflict: the prices have changed since `expected_version`.
        """
        checked = await asyncio.to_thread(numerics.check_prices, changes)
        await self._rows.lock_question("prices")
        before = await self._rows.get_prices()
        version = before.version if before else 0
        if expected_version not in (None, version):
            raise Conflict(
                f"the prices are at version {version} now: read them again, then change them",
                current_version=version,
            )
        merged = {**(before.prices if before else {}), **checked}
        row = PriceList(
            tenant_id=self._principal.tenant_id,
            version=version + 1,
            prices={gpu: price for gpu, price in merged.items() if price is not None},
            created_by=self._principal.subject,
        )
        await self._rows.add(row)
        await self._audit.record(
            "prices.set",
            "prices",
            str(row.version),
            before=dict(before.prices) if before else {},
            after=dict(row.prices),
        )
        return row

    async def _demand(self, question: RecommendationCreate) -> Demand:
        return question.demand(await self.choose_cluster(question.cluster))


async def approve_recommendation(
    db: AsyncSession,
    principal: Principal,
    recommendation_id: UUID,
    endpoint: str,
    current_learnt: CurrentLearnt = learn_nothing,
) -> Approved:
    """The configuration that a recommendation gives to an endpoint.

    Raises:
        Conflict: it is not there yet, has failed, is infeasible or out of date; says what to do.
    """
    rows = RecommendationRows(db, principal.tenant_id, principal.project_id)
    row = await rows.get(recommendation_id)
    again = f"configure {endpoint} again"
    if row is None or row.state == RecommendationState.FAILED:
        reason = row.error.get("message") if row is not None and row.error else "it is gone"
        raise Conflict(f"its recommendation failed: {reason}; {again}")
    if row.state not in ENDED or row.result is None:
        raise Conflict(
            f"its recommendation {row.id} is still being searched: look at it, then deploy"
        )
    if not row.result["feasible"]:
        raise Conflict(
            f"nothing meets the targets: {row.result['binding'] or 'memory'} binds; "
            f"relax it or enlarge the cluster, then {again}; optimization_method MANUAL "
            "takes any configuration"
        )
    prices = await rows.get_prices()
    probed = {row.gpu: row.measured for row in await HardwareRows(db).list_all()}
    learnt = replace(await current_learnt(db), probed=cast(dict[str, dict[str, float]], probed))
    current = await asyncio.to_thread(
        numerics.read_versions,
        cast(dict[str, float], dict(prices.prices) if prices else {}),
        learnt,
    )
    if (row.catalogue_digest, row.predictor_version) != (current.catalogue, current.predictor):
        raise Conflict(
            f"prices or the predictor have changed since its recommendation {row.id}: {again}"
        )
    choice = cast(dict[str, dict[str, object]], row.result["choice"])
    return Approved(
        recommendation_id=row.id,
        configuration=cast(dict[str, object], row.result["endpoint_config"]),
        workload=cast(dict[str, object], row.request["workload"]),
        predicted=choice["prediction"],
        model_version=row.predictor_version,
    )


async def record_prediction(
    db: AsyncSession, tenant_id: UUID, endpoint_id: UUID, revision: int, approved: Approved
) -> None:
    """Keep what is predicted of the endpoint's new revision."""
    await PredictionRows(db).add(
        EndpointPrediction(
            endpoint_id=endpoint_id,
            revision=revision,
            tenant_id=tenant_id,
            recommendation_id=approved.recommendation_id,
            configuration=approved.configuration,
            workload=approved.workload,
            predicted=approved.predicted,
            model_version=approved.model_version,
        )
    )


async def find_prediction(
    db: AsyncSession, endpoint_id: UUID, revision: int
) -> EndpointPrediction | None:
    """What was predicted of a revision; None: nobody asked."""
    return await PredictionRows(db).find_prediction(endpoint_id, revision)
