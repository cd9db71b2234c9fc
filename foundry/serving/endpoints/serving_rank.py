"""The rank of adapters that a base is served with, and how to have another."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.service import ModelVersion
from foundry.governance.identity.domain import Principal
from foundry.serving.endpoints.configuring import describe_change, next_options
from foundry.serving.endpoints.repository import EndpointRows
from foundry.serving.endpoints.tables import Endpoint


@dataclass(frozen=True, slots=True)
class ServingRank:
    """The highest rank of an adapter that will be served.

    Attributes:
        endpoint: that serves it, or will; None: there is none, so the server's default counts.
    """

    rank: int
    endpoint: Endpoint | None = None

    def describe(self, base: ModelVersion) -> str:
        """Who serves the adapters, in words."""
        if self.endpoint is not None:
            return f"the endpoint {self.endpoint.name}"
        return f"an endpoint of {base.reference}, as the server would make it,"

    def describe_change(self, base: ModelVersion, rank: int) -> str:
        """What to do so that adapters of a higher rank are served."""
        if self.endpoint is not None:
            return f"change that with {describe_change(self.endpoint, {'max_lora_rank': rank})}"
        return f"make one with `foundry endpoints create {base.reference} --max-lora-rank {rank}`"


class ServingRanks:
    """Reads what the principal's project serves bases with.

    Args:
        default: of endpoints that set no rank.
    """

    def __init__(self, db: AsyncSession, principal: Principal, default: int) -> None:
        self._rows = EndpointRows(db, principal.tenant_id, principal.project_id)
        self._default = default

    async def read_rank(self, base: ModelVersion) -> ServingRank:
        """What the base's endpoint serves, or will from its next deploy on."""
        endpoint = await self._rows.find_of_version(base.id)
        return find_rank(endpoint, self._default)


def find_rank(endpoint: Endpoint | None, default: int) -> ServingRank:
    """As `ServingRanks.read_rank`, of an endpoint that is known."""
    rank = next_options(endpoint).get("max_lora_rank") if endpoint is not None else None
    return ServingRank(rank if isinstance(rank, int) else default, endpoint)
