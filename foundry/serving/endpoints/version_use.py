"""Which versions of the registry engines need."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.governance.identity.domain import Principal
from foundry.infra.version_use import VersionUse
from foundry.serving.endpoints.repository import EndpointRows


class EndpointUse:
    """Tells the registry which versions engines need."""

    def __init__(self, db: AsyncSession, principal: Principal) -> None:
        self._rows = EndpointRows(db, principal.tenant_id, principal.project_id)

    async def find_use(self, version_ids: Collection[UUID]) -> VersionUse | None:
        endpoint = await self._rows.find_user_of_versions(version_ids)
        if endpoint is None:
            return None
        return VersionUse(endpoint.model_version_id, f"the endpoint {endpoint.name}")
