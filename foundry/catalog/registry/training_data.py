"""Which versions were trained on which data."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.repository import Versions
from foundry.governance.identity.domain import Principal
from foundry.infra.version_use import VersionUse


class TrainingData:
    """Tells the datasets which of their versions a lineage names."""

    def __init__(self, db: AsyncSession, principal: Principal) -> None:
        self._versions = Versions(db, principal.tenant_id)

    async def find_use(self, version_ids: Collection[UUID]) -> VersionUse | None:
        version = await self._versions.find_trained_on(version_ids)
        if version is None or version.dataset_version_id is None:
            return None
        return VersionUse(version.dataset_version_id, version.reference)
