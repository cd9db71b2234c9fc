"""Searches again for every running deployment: is there something clearly better by now?"""

import logging
from dataclasses import dataclass
from typing import Protocol, cast
from uuid import UUID

from foundry.errors import DatabaseUnavailable, FoundryError
from foundry.infra.database import Database
from foundry.serving.endpoints.domain import SERVING, EndpointSnapshot
from foundry.serving.endpoints.service import list_unsettled_endpoints
from foundry.serving.outcomes.domain import Load
from foundry.serving.outcomes.repository import AdviceRows, OutcomeRows
from foundry.serving.outcomes.tables import BudsimAdvice

log = logging.getLogger(__name__)

MIN_SAVING = 0.10


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a new search found for a deployment, under its targets and its present load.

    Attributes:
        violations: targets that the present configuration is predicted to miss now.
        feasible: the proposed configuration meets the targets.
        cost_now, cost_then: $ per hour; None: a price is unknown.
        recommendation: the proposed configuration and its predictions.
    """

    violations: tuple[str, ...]
    feasible: bool
    cost_now: float | None
    cost_then: float | None
    recommendation_id: UUID | None
    recommendation: dict[str, object]

    @property
    def saving(self) -> float | None:
        """Share of the present cost, negative if the proposal costs more."""
        if self.cost_now is None or self.cost_then is None or self.cost_now <= 0:
            return None
        return 1 - self.cost_then / self.cost_now

    def reason(self) -> str | None:
        """Why it is worth a change; None: it is not."""
        if not self.feasible:
            return None
        if self.violations:
            return f"the running configuration is predicted to miss {', '.join(self.violations)}"
        if self.saving is not None and self.saving >= MIN_SAVING - 1e-9:
            return f"the same targets for {self.saving:.0%} less per hour"
        return None


class Advisor(Protocol):
    async def propose(self, endpoint: EndpointSnapshot, load: Load | None) -> Proposal | None:
        """Search for this endpoint. None: it has no targets, or nothing is known of its model.

        Args:
            load: as last measured; None: the load that it was deployed for.
        """


async def review_deployments(database: Database, advisor: Advisor) -> int:
    """Write, renew or withdraw the advice of every running endpoint. Returns how many have some.

    One that cannot be searched keeps what it had; the others are searched all the same.
    """
    advised = 0
    for endpoint in await list_unsettled_endpoints(database):
        if endpoint.state not in SERVING:
            continue
        try:
            advised += await _review(database, advisor, endpoint)
        except DatabaseUnavailable:
            raise
        except FoundryError as error:
            log.warning("endpoint %s was not reviewed: %s", endpoint.name, error.message)
        except Exception:
            # Of this endpoint alone, whatever a library raises: the others are reviewed.
            log.exception("endpoint %s was not reviewed", endpoint.name)
    return advised


async def _review(database: Database, advisor: Advisor, endpoint: EndpointSnapshot) -> bool:
    async with database.begin() as db:
        newest = await OutcomeRows(db).list_page(endpoint.tenant_id, endpoint.id, None, 1)
    load = Load(**cast(dict[str, float], newest[0].load)) if newest else None
    proposal = await advisor.propose(endpoint, load)
    reason = proposal.reason() if proposal else None
    async with database.begin() as db:
        if proposal is None or reason is None:
            await AdviceRows(db).withdraw(endpoint.id)
            return False
        await AdviceRows(db).put(
            BudsimAdvice(
                endpoint_id=endpoint.id,
                tenant_id=endpoint.tenant_id,
                revision=endpoint.revision,
                reason=reason,
                saving=proposal.saving,
                recommendation_id=proposal.recommendation_id,
                recommendation=proposal.recommendation,
            )
        )
    return True
