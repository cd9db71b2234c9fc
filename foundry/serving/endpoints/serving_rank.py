"""The rank of adapters that a base is served with, and how to have another."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.service import ModelVersion
from foundry.errors import InvalidRequest
from foundry.governance.identity.domain import Principal
from foundry.serving.endpoints.configuring import describe_change, next_options
from foundry.serving.endpoints.repository import EndpointRows
from foundry.serving.endpoints.tables import Endpoint
from foundry.serving.engine.limits import LORA_RANKS, next_lora_rank


@dataclass(frozen=True, slots=True)
class ServingRank:
    """The highest rank of an adapter that will be served.

    Attributes:
        endpoint: that serves it; None: there is none yet.
        name: of the endpoint that is to be made; None: its base's.
    """

    rank: int
    endpoint: Endpoint | None = None
    name: str | None = None

    def check_adapter(self, subject: str, rank: int | None, base: ModelVersion, param: str) -> None:
        """Refuse an adapter that would be refused at its first request. Raises InvalidRequest.

        Args:
            subject: whose rank it is, to begin the message with.
            rank: None: unknown, or it is no adapter.
        """
        if rank is None or rank <= self.rank:
            return
        serves = f"{subject} is {rank}, but {self._describe(base)} adapters up to rank {self.rank}"
        lower = f"train with rank {self.rank} or less"
        wanted = next_lora_rank(rank)
        if wanted is None:
            most = LORA_RANKS[-1]
            raise InvalidRequest(f"{serves}, and no engine more than {most}: {lower}", param=param)
        raise InvalidRequest(
            f"{serves}: {lower}, or first {self._describe_change(base, wanted)}", param=param
        )

    def _describe(self, base: ModelVersion) -> str:
        if self.endpoint is not None:
            return f"the endpoint {self.endpoint.name} serves"
        return f"a new endpoint of {base.reference} would serve"

    def _describe_change(self, base: ModelVersion, rank: int) -> str:
        if self.endpoint is not None:
            return f"change that with {describe_change(self.endpoint, {'max_lora_rank': rank})}"
        named = f" --name {self.name}" if self.name is not None else ""
        return (
            f"make one with `foundry endpoints create {base.reference}{named} "
            f"--max-lora-rank {rank}`"
        )


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
