"""Searches again for one deployment, with its own targets and its present load."""

import math
from collections.abc import Mapping
from typing import Any, cast

from foundry.catalog.registry.service import Registry
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from foundry.serving.endpoints.service import Endpoints, EndpointSnapshot
from foundry.serving.outcomes.disturbances import system_principal
from foundry.serving.outcomes.domain import Forecasts, Load
from foundry.serving.outcomes.reviewing import Proposal
from foundry.serving.recommendations.domain import SEARCH_S
from foundry.serving.recommendations.running import Searches
from foundry.serving.recommendations.schemas import RecommendationCreate, TargetsIn
from foundry.serving.recommendations.service import Recommendation

# Loads that differ by less share an answer.
_DIGITS = 2


class SearchingAdvisor:
    """Implements `Advisor` with the searches that users start."""

    def __init__(self, database: Database, searches: Searches, forecasts: Forecasts) -> None:
        self._database = database
        self._searches = searches
        self._forecasts = forecasts

    async def propose(self, endpoint: EndpointSnapshot, load: Load | None) -> Proposal | None:
        who = system_principal(endpoint.tenant_id, endpoint.project_id)
        async with self._database.begin() as db:
            audit = AuditTrail(db, who, "")
            registry = Registry(db, audit, who)
            row = await Endpoints(db, audit, who, registry).get(endpoint.id)
            asked, model = cast(Mapping[str, Any], row.optimization or {}), row.model_reference
        targets = TargetsIn.model_validate(asked.get("targets") or {})
        if not _bound(targets) or (load is None and not asked.get("workload")):
            return None
        question = _question(model, asked, load)
        found = await self._searches.ask(who, "", question, SEARCH_S)
        if found.result is None:
            return None
        return await self._compared(endpoint, load, targets, found)

    async def _compared(
        self,
        endpoint: EndpointSnapshot,
        load: Load | None,
        targets: TargetsIn,
        found: Recommendation,
    ) -> Proposal:
        result = cast(Mapping[str, Any], found.result)
        now = None
        if load is not None:
            now = await self._forecasts.forecast(endpoint.id, endpoint.revision, load)
        choice = result.get("choice") or {}
        prediction = choice.get("prediction") or {}
        return Proposal(
            violations=find_violations(targets, now.predicted) if now else (),
            feasible=bool(result["feasible"]),
            cost_now=now.cost_per_hour if now else None,
            cost_then=prediction.get("cost_per_hour"),
            recommendation_id=found.id,
            recommendation={
                "configuration": result.get("endpoint_config"),
                "prediction": prediction,
            },
        )


def find_violations(
    targets: TargetsIn, predicted: Mapping[str, tuple[float, float, float]]
) -> tuple[str, ...]:
    """Targets that the predicted points miss."""
    percentile = "p50" if targets.percentile == "p50" else "p95"
    most = {
        "max_ttft_ms": f"ttft_{percentile}_ms",
        "max_tpot_ms": "tpot_ms",
        "max_latency_ms": "latency_p95_ms",
    }
    missed = [
        name
        for name, metric in most.items()
        if (bound := getattr(targets, name)) is not None
        and predicted.get(metric, (0.0, 0.0, 0.0))[1] > bound
    ]
    least = targets.min_throughput_tps
    if least is not None and predicted.get("throughput_tps", (0, math.inf, 0))[1] < least:
        missed.append("min_throughput_tps")
    return tuple(missed)


def _bound(targets: TargetsIn) -> bool:
    values = targets.model_dump(exclude={"percentile"})
    return any(value is not None for value in values.values())


def _question(model: str, asked: Mapping[str, Any], load: Load | None) -> RecommendationCreate:
    method = asked.get("method")
    return RecommendationCreate.model_validate(
        {
            "model": model,
            "workload": _workload(load) if load is not None else asked["workload"],
            "cluster": asked.get("cluster"),
            "targets": asked.get("targets") or {},
            "policy": asked.get("policy") or {},
            "method": method if method in ("REGRESSOR", "PRIOR") else "REGRESSOR",
        }
    )


def _workload(load: Load) -> dict[str, object]:
    def lengths(kind: str) -> dict[str, float]:
        return {name: _rounded(getattr(load, f"{kind}_{name}")) for name in ("mean", "p50", "p95")}

    return {
        "users": _rounded(load.concurrency),
        "input": lengths("input"),
        "output": lengths("output"),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
