"""SQL of models: their rows, and what a list shows of their versions. Bound to one tenant."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, literal, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, joinedload

from foundry.catalog.registry.domain import Stage
from foundry.catalog.registry.tables import Alias, Model, ModelVersion

# A list counts no further: a model of which a million versions were made is as large as one of
# these.
MOST_COUNTED = 1000
_RELEASE_KEY = "~"
# Written into the statement, so that the planner sees that the partial index covers it.
_TOMBSTONED = literal(Stage.TOMBSTONED.value, literal_execute=True)
_READY = literal(Stage.READY.value, literal_execute=True)


class Models:
    def __init__(self, db: AsyncSession, tenant_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id

    async def get(self, name: str) -> Model | None:
        """A model that was not deleted."""
        query = self._select_model(name).where(Model.deleted_at.is_(None))
        return (await self._db.execute(query)).scalar()

    async def lock(self, name: str) -> Model | None:
        """Lock a model, also a deleted one: its row keeps the numbers of its versions."""
        query = self._select_model(name).with_for_update().execution_options(populate_existing=True)
        return (await self._db.execute(query)).scalar()

    def _select_model(self, name: str) -> Any:
        return select(Model).where(Model.tenant_id == self._tenant_id, Model.name == name)

    async def ensure_model(self, model: dict[str, Any]) -> tuple[Model, bool]:
        """The model of this name, locked, so that its versions are numbered one by one.

        One that was deleted comes back with what `model` says, and counts as new.
        """
        statement = (
            insert(Model)
            .values(tenant_id=self._tenant_id, **model)
            .on_conflict_do_nothing()
            .returning(Model.id)
        )
        created = (await self._db.execute(statement)).scalar() is not None
        found = await self.lock(str(model["name"]))
        assert found is not None
        if found.deleted_at is not None:
            for column, value in model.items():
                if column != "id":
                    setattr(found, column, value)
            found.deleted_at, created = None, True
        return found, created

    async def list_page(
        self, *, prefix: str | None, kind: str | None, after: str | None, limit: int
    ) -> Sequence[Model]:
        query = select(Model).where(Model.tenant_id == self._tenant_id, Model.deleted_at.is_(None))
        if prefix:
            query = query.where(Model.name.startswith(prefix, autoescape=True))
        if kind is not None:
            query = query.where(Model.kind == kind)
        if after is not None:
            query = query.where(Model.name > after)
        return (await self._db.execute(query.order_by(Model.name).limit(limit))).scalars().all()

    async def find_latest(self, model_ids: Collection[UUID]) -> dict[UUID, str]:
        """Find by model the number of its highest ready release."""
        each = aliased(ModelVersion)
        highest = (
            select(each.id)
            .where(each.model_id == Model.id, each.stage == _READY, each.pre_key == _RELEASE_KEY)
            .order_by(each.major.desc(), each.minor.desc(), each.patch.desc())
            .limit(1)
            .correlate(Model)
            .scalar_subquery()
        )
        query = (
            select(ModelVersion)
            .join(Model, Model.id == ModelVersion.model_id)
            .where(Model.id.in_(model_ids), ModelVersion.id == highest)
        )
        found = (await self._db.execute(query)).scalars()
        return {version.model_id: version.version for version in found}

    async def count_versions(self, model_ids: Collection[UUID]) -> dict[UUID, int]:
        """Count by model the versions that are not deleted, up to MOST_COUNTED."""
        each = aliased(ModelVersion)
        live = (
            select(each.id)
            .where(each.model_id == Model.id, each.stage != _TOMBSTONED)
            .limit(MOST_COUNTED)
            .correlate(Model)
            .lateral()
        )
        query = (
            select(Model.id, func.count(live.c.id))
            .select_from(Model)
            .join(live, true())
            .where(Model.id.in_(model_ids))
            .group_by(Model.id)
        )
        return {row[0]: row[1] for row in await self._db.execute(query)}

    async def list_aliases(self, model_ids: Collection[UUID]) -> dict[UUID, list[Alias]]:
        query = (
            select(Alias)
            .where(Alias.tenant_id == self._tenant_id, Alias.model_id.in_(model_ids))
            .options(joinedload(Alias.target, innerjoin=True))
            .order_by(Alias.name)
        )
        found: dict[UUID, list[Alias]] = {}
        for alias in (await self._db.execute(query)).scalars():
            found.setdefault(alias.model_id, []).append(alias)
        return found
