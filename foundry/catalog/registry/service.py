"""Models and versions: registering, resolving, listing, comparing, deleting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast
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
from foundry.catalog.registry.registration import check_same_kind
from foundry.catalog.registry.repository import AliasRows, Blobs, Edge, Models, Versions
from foundry.catalog.registry.tables import Alias, Model, VersionFile, VersionMetric

# Other slices get their type of a version here: tables stay inside the slice.
from foundry.catalog.registry.tables import ModelVersion as ModelVersion
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

_MAX_DEPTH = 1000
_MAX_LINEAGE = 5000
_MAX_COMPARED = 8


class UseGuard(Protocol):
    """Asked before a version is deleted."""

    async def user_of(self, version_id: UUID) -> str | None:
        """What still needs the version, in words; None: nothing."""


@dataclass(frozen=True, slots=True)
class Described:
    """A model with where its names point."""

    model: Model
    aliases: list[Alias]
    latest_version: str | None

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)


@dataclass(frozen=True, slots=True)
class LineageEdge:
    child_id: UUID
    parent_id: UUID
    relation: str


@dataclass(frozen=True, slots=True)
class Lineage:
    versions: Sequence[ModelVersion]
    edges: list[LineageEdge]


@dataclass(frozen=True, slots=True)
class Comparison:
    version: ModelVersion
    metrics: dict[str, float]


class Registry:
    """The registry as one principal sees it."""

    def __init__(
        self,
        db: AsyncSession,
        audit: AuditTrail,
        principal: Principal,
        guards: Sequence[UseGuard] = (),
    ) -> None:
        self._db = db
        self._audit = audit
        self._principal = principal
        self._guards = guards
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
            raise _missing(str(version_id))
        return version

    async def hold(self, version_id: UUID) -> ModelVersion:
        """A usable version that cannot be deleted before this transaction ends."""
        version = await self._versions.hold(version_id)
        if version is None or not version.usable:
            raise _missing(str(version_id))
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
        version = await _find(self._versions, Reference.parse(f"{name}@{selector}"))
        if version is None:
            raise _missing(f"{name}@{selector}")
        return version

    async def manifest(self, version_id: UUID) -> Manifest:
        version = await self.get(version_id)
        return _manifest(version, await self._versions.files(version_id))

    async def describe(self, name: str) -> Described:
        model = await self._model(name)
        latest = await self._versions.latest(name)
        aliases = await AliasRows(self._db, self._principal.tenant_id).of_model(model.id)
        return Described(model, aliases, latest.version if latest else None)

    async def list_models(
        self,
        *,
        prefix: str | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[Model]:
        filters = f"{prefix}|{kind}"
        after = decode(cursor, (str,), filters)
        rows = await self._models.page(
            prefix=prefix,
            kind=kind,
            after=cast(str, after[0]) if after else None,
            limit=limit + 1,
        )
        return page_of(rows, limit, lambda model: (model.name,), filters)

    async def list_versions(
        self, name: str, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ModelVersion]:
        model = await self._model(name)
        after = decode(cursor, (int, int, int, str), name)
        rows = await self._versions.page(model.id, after, limit + 1)
        return page_of(rows, limit, lambda version: version.semver.sort_key, name)

    async def artifacts(self, name: str, selector: str) -> list[VersionFile]:
        return await self._versions.files((await self.select(name, selector)).id)

    async def metrics(self, name: str, selector: str) -> list[VersionMetric]:
        return await self._versions.metrics((await self.select(name, selector)).id)

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
            metrics = await self._versions.metrics(version.id)
            compared.append(Comparison(version, {each.name: each.value for each in metrics}))
        return compared

    async def lineage(self, name: str, selector: str, *, down: bool = False) -> Lineage:
        """What a version came from, or (`down`) what came from it; the version itself included."""
        root = await self.select(name, selector)
        seen: set[UUID] = {root.id}
        edges: set[Edge] = set()
        border = {root.id}
        for _ in range(_MAX_DEPTH):
            found = await self._versions.edges(border, down=down)
            edges |= found
            border = {edge[0] if down else edge[1] for edge in found} - seen
            seen |= border
            if not border or len(seen) > _MAX_LINEAGE:
                break
        ordered = sorted(edges, key=lambda edge: (str(edge[0]), str(edge[1]), edge[2]))
        return Lineage(await self._versions.many(seen), [LineageEdge(*edge) for edge in ordered])

    async def deprecate(self, name: str, selector: str, deprecated: bool) -> ModelVersion:
        """Hide a version from `@latest`, or bring it back; it can be loaded either way."""
        found = await self.select(name, selector)
        return await self._move(
            found.id, Stage.DEPRECATED if deprecated else Stage.READY, "version.stage"
        )

    async def tombstone(self, name: str, selector: str, reason: str | None = None) -> None:
        """Delete a version for good; its row, lineage and metrics stay for the record.

        Raises:
            AliasInUse, VersionInUse: something still points at it; the message says what.
        """
        found = await self.select(name, selector)
        version = await self._versions.lock(found.id)
        if version is None or version.stage == Stage.TOMBSTONED:
            return
        await self._check_unused(version)
        version.tombstoned_at = utcnow()
        version.tombstoned_by = self._principal.subject
        version.tombstone_reason = reason
        await Blobs(self._db, self._principal.tenant_id).release(version.id)
        await self._move(version.id, Stage.TOMBSTONED, "version.delete", reason)

    async def _check_unused(self, version: ModelVersion) -> None:
        if alias := await self._versions.alias_of(version.id):
            raise AliasInUse(
                f"{version.reference} is @{alias}: move or delete that alias first", alias=alias
            )
        if child := await self._versions.child(version.id):
            raise VersionInUse(
                f"{version.reference} is what {child.reference} was made from: "
                "delete that version first",
                used_by=child.reference,
            )
        for guard in self._guards:
            if user := await guard.user_of(version.id):
                raise VersionInUse(
                    f"{version.reference} is used by {user}: stop and delete that first",
                    used_by=user,
                )

    async def _move(
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

    async def _model(self, name: str) -> Model:
        model = await self._models.get(name)
        if model is None:
            raise _missing(name)
        return model


async def resolve_version(db: AsyncSession, tenant_id: UUID, reference: str) -> ModelVersion:
    """The usable version that `reference` means in a tenant; reads only. Raises ModelNotFound."""
    version = await _find(Versions(db, tenant_id), Reference.parse(reference))
    if version is None or not version.usable:
        raise _missing(reference)
    return version


async def find_version(db: AsyncSession, tenant_id: UUID, version_id: UUID) -> ModelVersion | None:
    return await Versions(db, tenant_id).get(version_id)


async def served_adapters(
    db: AsyncSession, tenant_id: UUID, base_ids: Sequence[UUID], limit: int
) -> list[tuple[ModelVersion, str | None]]:
    """Ready adapter releases of the bases, highest first per model, each with an alias or None."""
    return await Versions(db, tenant_id).adapters_of(base_ids, limit)


async def _find(versions: Versions, reference: Reference) -> ModelVersion | None:
    if reference.version is not None:
        return await versions.by_number(reference.name, reference.version)
    if reference.alias == LATEST:
        return await versions.latest(reference.name)
    return await versions.by_alias(reference.name, str(reference.alias))


async def load_manifest(database: Database, version_id: UUID) -> Manifest:
    """The files of a version, for a worker that was told its id by an authorised caller.

    Raises:
        ModelNotFound: it does not exist or may not be loaded.
    """
    async with database.begin() as db:
        version = await Versions.any_tenant(db, version_id)
        if version is None or not version.usable:
            raise _missing(str(version_id))
        return _manifest(version, await Versions(db, version.tenant_id).files(version_id))


def _manifest(version: ModelVersion, files: Sequence[VersionFile]) -> Manifest:
    refs = (FileRef(file.path, file.sha256, file.size, file.blob.object_key) for file in files)
    return Manifest(version.id, version.digest, tuple(refs))


def _missing(reference: str) -> ModelNotFound:
    return ModelNotFound(
        f"the model {reference[:320]} does not exist: `foundry models list` shows what there is",
        param="model",
    )
