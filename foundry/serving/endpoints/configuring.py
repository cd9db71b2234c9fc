"""How an endpoint is to be served from its next deploy on.

A configuration is stored beside the one that runs. `deploy` is its approval: only then does it
become the endpoint's, with a new revision and with what was predicted of it.
"""

import asyncio
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import Conflict, InvalidRequest
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import utcnow
from foundry.serving.endpoints.domain import EndpointState, deploy_command
from foundry.serving.endpoints.schemas import KEPT, EndpointConfigure
from foundry.serving.endpoints.tables import Endpoint
from foundry.serving.recommendations import numerics
from foundry.serving.recommendations.schemas import ModelIn, RecommendationCreate, ValidateIn
from foundry.serving.recommendations.searching import CurrentLearnt, learn_nothing
from foundry.serving.recommendations.service import (
    Approved,
    Recommendations,
    approve_recommendation,
)


@dataclass(frozen=True, slots=True)
class PlannedDeploy:
    """What a deploy changes. `prediction` is None where nothing was predicted."""

    config: dict[str, object]
    prediction: Approved | None


class Configuring:
    """Writes what the next deploy of an endpoint is to apply."""

    def __init__(
        self, db: AsyncSession, audit: AuditTrail, recommendations: Recommendations
    ) -> None:
        self._db = db
        self._audit = audit
        self._recommendations = recommendations

    async def configure(self, endpoint: Endpoint, wanted: EndpointConfigure) -> Endpoint:
        """Store what the next deploy is to apply; what runs stays as it is.

        Args:
            endpoint: locked by this transaction.
        Raises:
            InvalidRequest: no workload is given, now or before.
            InvalidConfiguration: a manual one breaks rules; lists each.
            Conflict: the endpoint is being deleted, or a field was set that would be ignored.
        """
        if endpoint.state == EndpointState.DELETING:
            raise Conflict(f"endpoint {endpoint.name} is being deleted")
        _check_nothing_ignored(wanted)
        before: dict[str, object] = {
            "next_config": endpoint.next_config,
            "optimization": endpoint.optimization,
        }
        if wanted.method == "MANUAL":
            await self._manual(endpoint, wanted)
        else:
            await self._recommended(endpoint, wanted)
        if endpoint.state == EndpointState.CREATED:
            endpoint.state = EndpointState.CONFIGURED.value
        endpoint.updated_at = utcnow()
        await self._db.flush()
        await self._audit.record(
            "endpoint.configure",
            "endpoint",
            str(endpoint.id),
            before=before,
            after={
                "next_config": endpoint.next_config,
                "optimization": endpoint.optimization,
                "recommendation_id": str(endpoint.recommendation_id or ""),
            },
        )
        return endpoint

    async def _recommended(self, endpoint: Endpoint, wanted: EndpointConfigure) -> None:
        question = _question(endpoint, wanted)
        row, _ = await self._recommendations.ask(question)
        endpoint.recommendation_id = row.id
        kept = {name: value for name, value in wanted.engine().items() if name in KEPT}
        endpoint.next_config = kept or None
        endpoint.optimization = {
            "method": wanted.method,
            **question.model_dump(
                mode="json", include={"workload", "targets", "policy", "cluster"}
            ),
        }

    async def _manual(self, endpoint: Endpoint, wanted: EndpointConfigure) -> None:
        config, optimization = wanted.engine(), dict[str, Any](method="MANUAL")
        workload = wanted.workload or _before(endpoint, "workload")
        if wanted.deployment is not None:
            if workload is None:
                raise InvalidRequest(
                    "workload: a deployment is checked under a workload: give one", param="workload"
                )
            asked = ValidateIn.model_validate(
                {
                    "model": endpoint.model_reference,
                    "deployment": wanted.deployment,
                    "workload": workload,
                    "cluster": await self._recommendations.choose_cluster(wanted.cluster),
                    "targets": wanted.performance_targets or {},
                    "policy": wanted.policy or {},
                }
            )
            checked = await self._checked(asked)
            config |= checked["configuration"]
            optimization |= {
                "configuration": checked["configuration"],
                "prediction": checked["prediction"],
                "model_version": checked["predictor_version"],
                "warnings": checked["warnings"],
                **asked.model_dump(mode="json", include={"workload", "targets"}),
            }
        endpoint.next_config, endpoint.optimization = config, optimization
        endpoint.recommendation_id = None

    async def _checked(self, asked: ValidateIn) -> dict[str, Any]:
        numerics.require_libraries()
        subject = await self._recommendations.find_subject(ModelIn(model=asked.model))
        prices = await self._recommendations.read_prices()
        learnt = await self._recommendations.read_learnt()
        return await asyncio.to_thread(
            numerics.validate_deployment,
            subject.config,
            subject.checkpoint_bytes,
            prices,
            asked,
            learnt,
        )


def next_options(endpoint: Endpoint) -> dict[str, object]:
    """The options that an endpoint is served with from its next deploy on, as far as known."""
    if endpoint.recommendation_id is not None:
        kept = {name: value for name, value in endpoint.config.items() if name in KEPT}
        return kept | (endpoint.next_config or {})
    return endpoint.config if endpoint.next_config is None else endpoint.next_config


def describe_change(endpoint: Endpoint, wanted: Mapping[str, object]) -> str:
    """The commands that change some options of an endpoint and keep the others."""
    options = json.dumps(next_options(endpoint) | dict(wanted), sort_keys=True)
    return (
        f"`echo {shlex.quote(options)} | foundry endpoints configure {endpoint.name} -` and "
        f"`{deploy_command(endpoint.name, endpoint.model_reference)}`"
    )


async def plan_deploy(
    db: AsyncSession,
    principal: Principal,
    endpoint: Endpoint,
    reviewed: UUID | None,
    learnt: CurrentLearnt = learn_nothing,
) -> PlannedDeploy | None:
    """What is to be applied; None: nothing was configured since the last deploy.

    Args:
        reviewed: the recommendation that the caller looked at; None: whichever is stored.
    Raises:
        Conflict: the stored recommendation is another, not ready, infeasible or out of date.
    """
    if reviewed is not None and reviewed != endpoint.recommendation_id:
        raise Conflict(
            f"the recommendation to review is {endpoint.recommendation_id} now: look at it first",
            recommendation_id=str(endpoint.recommendation_id or ""),
        )
    if endpoint.recommendation_id is not None:
        found = await approve_recommendation(
            db, principal, endpoint.recommendation_id, endpoint.name, learnt
        )
        return PlannedDeploy({**next_options(endpoint), **found.configuration}, found)
    if endpoint.next_config is None:
        return None
    return PlannedDeploy(dict(endpoint.next_config), _manual_prediction(endpoint))


def _check_nothing_ignored(wanted: EndpointConfigure) -> None:
    """Refuse what is only read of a search or a deployment file. Raises Conflict."""
    if wanted.method != "MANUAL" or wanted.deployment is not None:
        return
    names = ("performance_targets", "workload", "policy", "cluster")
    if ignored := [name for name in names if getattr(wanted, name) is not None]:
        raise Conflict(
            f"{', '.join(ignored)} would be ignored: options are taken as they are, so leave "
            "that out, or let a configuration be found with performance_targets and the "
            "optimization_method REGRESSOR or PRIOR, or check a deployment",
            param=ignored[0],
        )


def _manual_prediction(endpoint: Endpoint) -> Approved | None:
    stored: dict[str, Any] = endpoint.optimization or {}
    if "prediction" not in stored:
        return None
    return Approved(
        recommendation_id=None,
        configuration=stored["configuration"],
        workload=stored["workload"],
        predicted=stored["prediction"],
        model_version=stored["model_version"],
    )


def _before(endpoint: Endpoint, name: str) -> Any:
    return (endpoint.optimization or {}).get(name)


def _question(endpoint: Endpoint, wanted: EndpointConfigure) -> RecommendationCreate:
    """Under new targets, what else was asked before counts again."""
    workload = wanted.workload or _before(endpoint, "workload")
    if workload is None:
        raise InvalidRequest(
            f"workload: what is {endpoint.name} to carry? Give input and output lengths, and "
            "users or rate",
            param="workload",
        )
    policy = dict[str, Any](_before(endpoint, "policy") or {})
    if wanted.policy is not None:
        policy = wanted.policy.model_dump(exclude_unset=True)
    if wanted.runtime is not None:
        policy["runtimes"] = (wanted.runtime,)
    if wanted.max_model_len is not None:
        policy["max_model_len"] = wanted.max_model_len
    return RecommendationCreate.model_validate(
        {
            "model": endpoint.model_reference,
            "workload": workload,
            "cluster": wanted.cluster or _before(endpoint, "cluster"),
            "targets": wanted.performance_targets or {},
            "policy": policy,
            "method": wanted.prediction_method,
        }
    )
