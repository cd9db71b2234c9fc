"""Models and versions: registering, resolving, listing, comparing, deleting."""

from collections.abc import Sequence
from typing import cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.domain import (
    LATEST,
    TRANSITIONS,
    Kind,
    Manifest,
    Reference,
    Stage,
)
from foundry.catalog.registry.model_rows import Models
from foundry.catalog.registry.registration import check_same_kind
from foundry.catalog.registry.repository import Blobs, Edge, Versions
from foundry.catalog.registry.tables import Model, VersionFile, VersionMetric

# Other slices get their type of a version here: tables stay inside the slice.
from foundry.catalog.registry.tables import ModelVersion as ModelVersion
from foundry.catalog.registry.views import (
    Comparison,
    DatasetNamer,
    Lineage,
    LineageDataset,
    LineageEdge,
    ModelSummary,
)
from foundry.errors import (
    AliasInUse,
    Conflict,
    InvalidRequest,
    ModelNotFound,
    VersionInUse,
)
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import Database, utcnow
from foundry.infra.objects import FileRef
from foundry.infra.version_use import UseFinder

_MAX_DEPTH = 1000
_MAX_LINEAGE = 5000
_MAX_COMPARED = 8
# Each is a few statements of one transaction.
_MOST_DELETED = 500


class Registry:
    """The registry as one principal sees it."""

    def __init__(
        self,
        db: AsyncSession,
        audit: AuditTrail,
        principal: Principal,
        users: Sequence[UseFinder] = (),
        datasets: DatasetNamer | None = None,
    ) -> None:
        self._db = db
        self._audit = audit
        self._principal = principal
        self._users = users
        self._datasets = datasets
        self._models = Models(db, principal.tenant_id)
        self._versions = Versions(db, principal.tenant_id)

    async def resolve(self, reference: str) -> ModelVersion:
        """The version that a request's model name means.

        Raises:
            ModelNotFound: there is none, or it may not be used.
        """
        return await resolve_version(self._db, self._principal.tenant_id, reference)

    async def get(self, version_id: UUID) -> ModelVersion:
        version = await self._versions.get(version_id)
        if version is None:
            raise _make_missing_error(str(version_id))
        return version

    async def hold(self, version_id: UUID) -> ModelVersion:
        """A usable version that cannot be deleted before this transaction ends."""
        version = await self._versions.hold(version_id)
        if version is None or not version.usable:
            raise _make_missing_error(str(version_id))
        return version

    async def check_kind(self, name: str, kind: Kind) -> None:
        """Check before a job is queued that its result fits the model.

        Raises Conflict: the model exists and holds another kind of version.
        """
        model = await self._models.get(name)
        if model is not None:
            check_same_kind(model, kind)

    async def select(self, name: str, selector: str) -> ModelVersion:
        """A version in any stage, by number or alias."""
        version = await _find_version(self._versions, Reference.parse(f"{name}@{selector}"))
        if version is None:
            raise _make_missing_error(f"{name}@{selector}")
        return version

    async def manifest(self, version_id: UUID) -> Manifest:
        version = await self.get(version_id)
        return _make_manifest(version, await self._versions.list_files(version_id))

    async def describe(self, name: str) -> ModelSummary:
        (described,) = await self._describe_models([await self._get_model(name)])
        return described

    async def _describe_models(self, models: Sequence[Model]) -> list[ModelSummary]:
        ids = [model.id for model in models]
        latest = await self._models.find_latest(ids)
        counts = await self._models.count_versions(ids)
        aliases = await self._models.list_aliases(ids)
        return [
            ModelSummary(
                model, aliases.get(model.id, []), latest.get(model.id), counts.get(model.id, 0)
            )
            for model in models
        ]

    async def list_models(
        self,
        *,
        prefix: str | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[ModelSummary]:
        filters = f"{prefix}|{kind}"
        after = decode(cursor, (str,), filters)
        rows = await self._models.list_page(
            prefix=prefix,
            kind=kind,
            after=cast(str, after[0]) if after else None,
            limit=limit + 1,
        )
        page = page_of(rows, limit, lambda model: (model.name,), filters)
        return Page(await self._describe_models(page.data), page.next_cursor)

    async def list_versions(
        self, name: str, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ModelVersion]:
        model = await self._get_model(name)
        after = decode(cursor, (int, int, int, str), name)
        rows = await self._versions.list_page(model.id, after, limit + 1)
        return page_of(rows, limit, lambda version: version.semver.sort_key, name)

    async def artifacts(self, name: str, selector: str) -> list[VersionFile]:
        return await self._versions.list_files((await self.select(name, selector)).id)

    async def metrics(self, name: str, selector: str) -> list[VersionMetric]:
        return await self._versions.list_metrics((await self.select(name, selector)).id)

    async def compare(self, name: str, selectors: Sequence[str]) -> list[Comparison]:
        """Versions of one model side by side, with the last value of each metric."""
        if not 1 <= len(selectors) <= _MAX_COMPARED:
            raise InvalidRequest(
                f"name between 1 and {_MAX_COMPARED} versions, separated by commas",
                param="versions",
            )
        compared = []
        for selector in selectors:
            version = await self.select(name, selector.strip())
            metrics = await self._versions.list_metrics(version.id)
            compared.append(Comparison(version, {each.name: each.value for each in metrics}))
        return compared

    async def lineage(self, name: str, selector: str, *, down: bool = False) -> Lineage:
        """What a version came from, or (`down`) what came from it; the version itself included."""
        root = await self.select(name, selector)
        seen: set[UUID] = {root.id}
        edges: set[Edge] = set()
        border = {root.id}
        for _ in range(_MAX_DEPTH):
            found = await self._versions.list_edges(border, down=down)
            edges |= found
            border = {edge[0] if down else edge[1] for edge in found} - seen
            seen |= border
            if not border or len(seen) > _MAX_LINEAGE:
                break
        ordered = sorted(edges, key=lambda edge: (str(edge[0]), str(edge[1]), edge[2]))
        versions = await self._versions.list_by_ids(seen)
        data = {each.dataset_version_id for each in versions if each.dataset_version_id}
        names = await self._datasets.name_versions(data) if self._datasets and data else {}
        datasets = [LineageDataset(key, name) for key, name in sorted(names.items())]
        return Lineage(versions, [LineageEdge(*edge) for edge in ordered], datasets)

    async def deprecate(self, name: str, selector: str, deprecated: bool) -> ModelVersion:
        """Hide a version from `@latest`, or bring it back; it can be loaded either way."""
        found = await self.select(name, selector)
        return await self._move_stage(
            found.id, Stage.DEPRECATED if deprecated else Stage.READY, "version.stage"
        )

    async def tombstone(self, name: str, selector: str, reason: str | None = None) -> None:
        """Delete a version for good; its row, lineage and metrics stay for the record.

        Raises:
            AliasInUse, VersionInUse: something still points at it; the message says what.
        """
        version = await self._versions.lock((await self.select(name, selector)).id)
        if version is not None and version.stage != Stage.TOMBSTONED:
            await self._bury_versions([version], reason)

    async def delete_model(
        self, name: str, *, all_versions: bool = False, reason: str | None = None
    ) -> None:
        """Remove a model from the lists; a version that is registered later brings it back.

        Args:
            all_versions: delete its versions with it: all of them or none.

        Raises:
            Conflict: it has versions, or more than one call deletes.
            AliasInUse, VersionInUse: something still points at one; the message says what.
        """
        model = await self._get_model(name)
        live = await self._versions.list_live(model.id, _MOST_DELETED + 1)
        if live and not all_versions:
            raise _make_has_versions_error(name)
        if len(live) > _MOST_DELETED:
            raise Conflict(
                f"{name} has more than {_MOST_DELETED} versions: delete some of them first"
            )
        # Versions, then the model, then blobs: the order in which a registration locks them.
        for version in live:
            await self._versions.lock(version.id)
        locked = await self._models.lock(name)
        if locked is None or locked.deleted_at is not None:
            raise _make_missing_error(name)
        now = await self._versions.list_live(locked.id, len(live) + 1)
        if {version.id for version in now} - {version.id for version in live}:
            # It was registered a moment ago.
            raise _make_has_versions_error(name)
        await self._bury_versions(now, reason)
        locked.deleted_at = utcnow()
        await self._db.flush()
        after = {"name": name, "versions": len(now)}
        await self._audit.record(
            "model.delete", "model", str(locked.id), after=after, reason=reason
        )

    async def _bury_versions(self, versions: Sequence[ModelVersion], reason: str | None) -> None:
        """Delete locked versions, those that were made from others first."""
        for version in versions:
            await self._check_unused(version)
            version.tombstoned_at = utcnow()
            version.tombstoned_by = self._principal.subject
            version.tombstone_reason = reason
            await self._move_stage(version.id, Stage.TOMBSTONED, "version.delete", reason)
        ids = [version.id for version in versions]
        await Blobs(self._db, self._principal.tenant_id).release(ids)

    async def _check_unused(self, version: ModelVersion) -> None:
        if alias := await self._versions.find_alias(version.id):
            raise AliasInUse(
                f"{version.reference} is @{alias}: move or delete that alias first", alias=alias
            )
        if child := await self._versions.find_child(version.id):
            raise VersionInUse(
                f"{version.reference} is what {child.reference} was made from: "
                "delete that version first",
                used_by=child.reference,
            )
        for users in self._users:
            if use := await users.find_use([version.id]):
                raise VersionInUse(
                    f"{version.reference} is used by {use.user}: stop and delete that first",
                    used_by=use.user,
                )

    async def _move_stage(
        self, version_id: UUID, target: Stage, action: str, reason: str | None = None
    ) -> ModelVersion:
        version = await self._versions.lock(version_id)
        assert version is not None
        before = Stage(version.stage)
        if before == target:
            return version
        if target not in TRANSITIONS[before]:
            raise Conflict(f"{version.reference} is {before} and cannot become {target}")
        version.stage = target.value
        await self._db.flush()
        await self._audit.record(
            action,
            "model_version",
            str(version.id),
            before={"stage": before},
            after={"stage": target, "reference": version.reference},
            reason=reason,
        )
        return version

    async def _get_model(self, name: str) -> Model:
        model = await self._models.get(name)
        if model is None:
            raise _make_missing_error(name)
        return model


async def resolve_version(db: AsyncSession, tenant_id: UUID, reference: str) -> ModelVersion:
    """The usable version that `reference` means in a tenant; reads only. Raises ModelNotFound."""
    version = await _find_version(Versions(db, tenant_id), Reference.parse(reference))
    if version is None or not version.usable:
        raise _make_missing_error(reference)
    return version


async def find_version(db: AsyncSession, tenant_id: UUID, version_id: UUID) -> ModelVersion | None:
    return await Versions(db, tenant_id).get(version_id)


async def served_adapters(
    db: AsyncSession, tenant_id: UUID, base_ids: Sequence[UUID], limit: int
) -> list[tuple[ModelVersion, str | None]]:
    """Ready adapter releases of the bases, highest first per model, each with an alias or None."""
    return await Versions(db, tenant_id).list_adapters(base_ids, limit)


async def _find_version(versions: Versions, reference: Reference) -> ModelVersion | None:
    if reference.version is not None:
        return await versions.find_by_number(reference.name, reference.version)
    if reference.alias == LATEST:
        return await versions.find_latest(reference.name)
    return await versions.find_by_alias(reference.name, str(reference.alias))


async def load_manifest(database: Database, version_id: UUID) -> Manifest:
    """The files of a version, for a worker that was told its id by an authorised caller.

    Raises:
        ModelNotFound: it does not exist or may not be loaded.
    """
    async with database.begin() as db:
        version = await Versions.get_of_any_tenant(db, version_id)
        if version is None or not version.usable:
            raise _make_missing_error(str(version_id))
        return _make_manifest(version, await Versions(db, version.tenant_id).list_files(version_id))


def _make_manifest(version: ModelVersion, files: Sequence[VersionFile]) -> Manifest:
    refs = (FileRef(file.path, file.sha256, file.size, file.blob.object_key) for file in files)
    return Manifest(version.id, version.digest, tuple(refs))


def _make_has_versions_error(name: str) -> Conflict:
    return Conflict(
        f"{name} has versions: delete them first, or with it "
        f"(`foundry models delete {name} --all-versions`)"
    )


def _make_missing_error(reference: str) -> ModelNotFound:
    return ModelNotFound(
        f"the model {reference[:320]} does not exist: `foundry models list` shows what there is",
        param="model",
    )
