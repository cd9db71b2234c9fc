"""What dataset versions are called, for slices that know only their ids."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.datasets.repository import list_references
from foundry.governance.identity.domain import Principal


class DatasetNames:
    """Names of versions that the principal's project has."""

    def __init__(self, db: AsyncSession, principal: Principal) -> None:
        self._db = db
        self._principal = principal

    async def name_versions(self, ids: Collection[UUID]) -> dict[UUID, str]:
        """`name@N` of those that are known."""
        caller = self._principal
        return await list_references(self._db, caller.tenant_id, caller.project_id, ids)
