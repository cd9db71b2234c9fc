"""What budsim predicts of a deployed revision under the load that it really has."""

import asyncio
import math
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from foundry.catalog.registry.service import Registry
from foundry.config import ServingSettings
from foundry.engines.budsim.prediction import METRICS
from foundry.engines.budsim.request import Lengths, Workload
from foundry.errors import InvalidRequest
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from foundry.infra.objects import ObjectStore
from foundry.serving.endpoints.service import EndpointSnapshot, list_unsettled_endpoints
from foundry.serving.outcomes.closing import read_learnt
from foundry.serving.outcomes.disturbances import system_principal
from foundry.serving.outcomes.domain import Forecast, Load
from foundry.serving.recommendations import numerics
from foundry.serving.recommendations.learning import Learnt
from foundry.serving.recommendations.schemas import ModelIn
from foundry.serving.recommendations.searching import LiveCluster
from foundry.serving.recommendations.service import Recommendations, Subject, find_prediction

_CPU = "cpu"
_COPIED = (
    "runtime",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "replicas",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "quantization",
    "kv_cache_dtype",
)
_MAX_SUBJECTS = 256


class PredictorForecasts:
    """Predicts with the active model and this site's corrections.

    Args:
        serving: what an endpoint's configuration leaves open; None: the defaults.
        engine_version: of this installation; empty: any.
        live: names the accelerator where a configuration does not; None: there is none.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        serving: ServingSettings | None = None,
        engine_version: str = "",
        live: LiveCluster | None = None,
    ) -> None:
        self._database = database
        self._objects = objects
        self._serving = serving or ServingSettings()
        self._engine_version = engine_version
        self._live = live
        self._subjects: dict[UUID, Subject] = {}

    async def forecast(self, endpoint_id: UUID, revision: int, load: Load) -> Forecast | None:
        """None: this revision does not run any more.

        Raises:
            UnsupportedFeature: budsim's libraries are not installed.
            InvalidRequest: the model's shape, or the accelerator, is unknown.
        """
        numerics.require_libraries()
        endpoint = await self._running(endpoint_id, revision)
        if endpoint is None:
            return None
        configuration = await self._configuration(endpoint)
        subject, prices, learnt = await self._facts(endpoint)
        return await asyncio.to_thread(
            _forecast, subject, prices, configuration, load, learnt, self._engine_version
        )

    async def _running(self, endpoint_id: UUID, revision: int) -> EndpointSnapshot | None:
        for endpoint in await list_unsettled_endpoints(self._database):
            if (endpoint.id, endpoint.revision) == (endpoint_id, revision):
                return endpoint
        return None

    async def _configuration(self, endpoint: EndpointSnapshot) -> dict[str, Any]:
        """As it was deployed: the settings, under the endpoint's options, under what was asked."""
        async with self._database.begin() as db:
            row = await find_prediction(db, endpoint.id, endpoint.revision)
        stored = dict(row.configuration) if row is not None else {}
        options = {**self._serving.model_dump(), **endpoint.config, **stored}
        resources = cast(Mapping[str, Any], options.get("resources") or {})
        gpu = resources.get("gpu_type") or options.get("gpu") or await self._accelerator()
        return {"gpu": gpu} | {name: options[name] for name in _COPIED if name in options}

    async def _accelerator(self) -> str:
        if self._live is None:
            return _CPU
        try:
            groups = (await self._live.describe()).groups
        except InvalidRequest:
            return _CPU
        return next((group.gpu for group in groups if group.gpu != _CPU), _CPU)

    async def _facts(self, endpoint: EndpointSnapshot) -> tuple[Subject, dict[str, float], Learnt]:
        who = system_principal(endpoint.tenant_id, endpoint.project_id)
        async with self._database.begin() as db:
            audit = AuditTrail(db, who, "")
            recommendations = Recommendations(db, self._objects, audit, who, learnt=read_learnt)
            subject = self._subjects.get(endpoint.model_version_id)
            if subject is None:
                registry = Registry(db, audit, who)
                version = await registry.get(endpoint.model_version_id)
                subject = await recommendations.find_subject(ModelIn(model=version.reference))
                if len(self._subjects) >= _MAX_SUBJECTS:
                    self._subjects.clear()
                self._subjects[endpoint.model_version_id] = subject
            return subject, await recommendations.read_prices(), await recommendations.read_learnt()


def workload_of(load: Load) -> Workload:
    """The closed workload that keeps as many requests in flight as there were."""
    return Workload(
        input=Lengths(load.input_mean, load.input_p50, load.input_p95),
        output=Lengths(load.output_mean, load.output_p50, load.output_p95),
        users=load.concurrency,
    )


def _forecast(
    subject: Subject,
    prices: Mapping[str, float],
    configuration: dict[str, Any],
    load: Load,
    learnt: Learnt,
    engine_version: str,
) -> Forecast:
    from foundry.engines.budsim.configuration import Configuration, Configurations
    from foundry.engines.budsim.fitting.site import site_point
    from foundry.engines.budsim.model_config import model_spec

    wanted = Configuration(**configuration)
    # Corrections are applied below, for this engine version and one by one.
    model, hardware = (
        numerics.choose_uncorrected_predictor(learnt),
        numerics.build_catalogue(prices, learnt),
    )
    spec = model_spec(subject.config, checkpoint_bytes=subject.checkpoint_bytes)
    rows, workload = Configurations.of([wanted]), workload_of(load)
    found = model.predict(spec, rows, workload, catalogue=hardware)
    shown: dict[str, tuple[float, float, float]] = {}
    applied: dict[str, tuple[float, float]] = {}
    for name in METRICS:
        correction = learnt.bias.correction(wanted.gpu, wanted.runtime, engine_version, name)
        interval = correction.apply(getattr(found, name)).at(0)
        shown[name] = (interval.low, interval.point, interval.high)
        applied[name] = (correction.factor, correction.spread)
    cost = float(found.cost_per_hour[0])
    return Forecast(
        gpu=wanted.gpu,
        engine=wanted.runtime,
        engine_version=engine_version,
        configuration=configuration,
        predictor_version=model.version,
        predicted=shown,
        applied=applied,
        cost_per_hour=cost if math.isfinite(cost) else None,
        point=site_point(spec, rows, workload, hardware),
    )
