"""Which versions of the registry engines need."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.governance.identity.domain import Principal
from foundry.serving.endpoints.repository import EndpointRows


class EndpointUse:
    """Tells the registry which versions engines need."""

    def __init__(self, db: AsyncSession, principal: Principal) -> None:
        self._rows = EndpointRows(db, principal.tenant_id, principal.project_id)

    async def user_of(self, version_id: UUID) -> str | None:
        endpoint = await self._rows.find_user_of_version(version_id)
        return f"the endpoint {endpoint.name}" if endpoint else None


def endpoint_use(db: AsyncSession, principal: Principal) -> EndpointUse:
    """The registry's guard of versions that an endpoint of the principal's project serves."""
    return EndpointUse(db, principal)
