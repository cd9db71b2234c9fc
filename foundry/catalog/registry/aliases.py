"""Names that move: compare-and-set, with their history."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.domain import (
    LATEST,
    PROTECTED_ALIASES,
    Reference,
    Stage,
    check_alias,
)
from foundry.catalog.registry.model_rows import Models
from foundry.catalog.registry.repository import AliasRows, Versions
from foundry.catalog.registry.tables import Alias, AliasEvent, Model, ModelVersion
from foundry.errors import AliasMoved, Conflict, ModelNotFound, NotFound, PermissionDenied
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal


class Aliases:
    """Aliases of the principal's tenant."""

    def __init__(self, db: AsyncSession, audit: AuditTrail, principal: Principal) -> None:
        self._db = db
        self._audit = audit
        self._principal = principal
        self._aliases = AliasRows(db, principal.tenant_id)
        self._models = Models(db, principal.tenant_id)
        self._versions = Versions(db, principal.tenant_id)

    async def set(
        self, name: str, alias: str, version: str, expected: UUID | None, reason: str | None = None
    ) -> Alias:
        """Point `alias` at `version` if it points at `expected` now (None: if it does not exist).

        Raises:
            AliasMoved: it points elsewhere; the details have the current version.
            Conflict: the version is not ready.
        """
        self._check_allowed(alias)
        model = await self._get_model(name)
        target = await self._hold_target(name, version)
        return await self._point_alias(model, alias, target, expected, reason)

    async def rollback(
        self, name: str, alias: str, expected: UUID, reason: str | None = None
    ) -> Alias:
        """Point it where it pointed before its last move.

        Raises:
            Conflict: it never pointed anywhere else.
        """
        self._check_allowed(alias)
        model = await self._get_model(name)
        event = await self._aliases.find_last_event(model.id, alias)
        if event is None or event.from_version_id is None:
            raise Conflict(f"{name}@{alias} has no earlier version to go back to")
        target = await self._versions.hold(event.from_version_id)
        if target is None:
            raise Conflict(f"the earlier version of {name}@{alias} is gone")
        _check_ready(target)
        return await self._point_alias(model, alias, target, expected, reason)

    async def delete(self, name: str, alias: str, expected: UUID) -> None:
        self._check_allowed(alias)
        model = await self._get_model(name)
        row = await self._aliases.get(model.id, alias)
        if row is None:
            raise NotFound(f"{name} has no alias {alias}")
        # A move to itself takes the row's lock and proves that nobody moved it.
        if not await self._aliases.move(model.id, alias, expected, expected):
            raise await self._make_moved_error(model, alias)
        await self._aliases.remove(row)
        await self._record_move(model, alias, expected, None, None)

    async def _point_alias(
        self,
        model: Model,
        alias: str,
        target: ModelVersion,
        expected: UUID | None,
        reason: str | None,
    ) -> Alias:
        if expected is None:
            done = await self._aliases.create(
                {
                    "model_id": model.id,
                    "name": alias,
                    "version_id": target.id,
                    "protected": alias in PROTECTED_ALIASES,
                }
            )
        else:
            done = await self._aliases.move(model.id, alias, target.id, expected)
        if not done:
            raise await self._make_moved_error(model, alias)
        await self._record_move(model, alias, expected, target.id, reason)
        row = await self._aliases.get(model.id, alias)
        assert row is not None
        return row

    async def _make_moved_error(self, model: Model, alias: str) -> AliasMoved:
        row = await self._aliases.get(model.id, alias)
        now = f"points at {row.version} now" if row else "does not exist"
        return AliasMoved(
            f"{model.name}@{alias} {now}: read it again and decide again",
            current_version_id=str(row.version_id) if row else None,
            current_version=row.version if row else None,
        )

    async def _record_move(
        self, model: Model, alias: str, before: UUID | None, after: UUID | None, reason: str | None
    ) -> None:
        self._db.add(
            AliasEvent(
                tenant_id=model.tenant_id,
                model_id=model.id,
                alias=alias,
                from_version_id=before,
                to_version_id=after,
                actor=self._principal.subject,
                reason=reason,
                request_id=self._audit.request_id,
            )
        )
        await self._audit.record(
            "alias.set" if after else "alias.delete",
            "model_alias",
            f"{model.name}@{alias}",
            before={"version_id": before} if before else None,
            after={"version_id": after} if after else None,
            reason=reason,
        )

    def _check_allowed(self, alias: str) -> None:
        check_alias(alias)
        if alias in PROTECTED_ALIASES and not self._principal.allows("registry:promote"):
            raise PermissionDenied(
                f"moving @{alias} needs the permission registry:promote; "
                "ask an administrator to promote the version",
                permission="registry:promote",
            )

    async def _hold_target(self, name: str, selector: str) -> ModelVersion:
        reference = Reference.parse(f"{name}@{selector}")
        if reference.version is not None:
            found = await self._versions.find_by_number(name, reference.version)
        elif reference.alias == LATEST:
            found = await self._versions.find_latest(name)
        else:
            found = await self._versions.find_by_alias(name, str(reference.alias))
        held = await self._versions.hold(found.id) if found else None
        if held is None:
            raise ModelNotFound(f"{name} has no version {selector}", param="version")
        _check_ready(held)
        return held

    async def _get_model(self, name: str) -> Model:
        model = await self._models.get(name)
        if model is None:
            raise ModelNotFound(f"the model {name} does not exist", param="model")
        return model


def _check_ready(version: ModelVersion) -> None:
    if version.stage != Stage.READY:
        raise Conflict(f"{version.reference} is {version.stage}: an alias needs a ready version")
