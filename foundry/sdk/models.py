"""Models, their versions and aliases."""

from collections.abc import Sequence
from types import NoneType
from typing import Literal
from uuid import UUID

from foundry.catalog.registry.schemas import (
    AliasOut,
    AliasRollback,
    AliasSet,
    ArtifactOut,
    ComparisonColumn,
    LineageOut,
    MetricOut,
    ModelDetail,
    StageSet,
    VersionOut,
)
from foundry.errors import InvalidRequest
from foundry.sdk._references import require_version, split_reference, version_of
from foundry.sdk._transport import Call, Resource, S_co, operation, pages, path
from foundry.sdk.jobs import Jobs
from foundry.sdk.paging import Listed, Page


def _version_path(name: str, version: str | None, *more: str) -> str:
    """The route of a version; without one, of the newest."""
    name, chosen = split_reference(name, version)
    return path("models", name, "versions", chosen or "latest", *more)


def _named_version(name: str, version: str | None) -> tuple[str, str, str]:
    """The rest of a version's route, where the newest must not be meant by chance."""
    name, chosen = require_version(name, version)
    return name, "versions", chosen


class Models(Resource[S_co]):
    """Models, their versions and aliases.

    A version is written `name@version`: `support-bot@0.2.0`, `support-bot@production`; a name alone
    means its newest version, except where something is changed. `version` may also be given apart.
    """

    @pages("models_list")
    def list(
        self,
        *,
        prefix: str | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Call[Page[ModelDetail]]:
        """Models by name, `limit` to a page; kind: base, adapter or merged."""
        query = {"q": prefix, "kind": kind, "cursor": cursor, "limit": limit}
        return Call("GET", path("models"), Page[ModelDetail], query)

    @operation("models_get")
    def get(self, name: str) -> Call[ModelDetail]:
        """A model with its aliases. Raises InvalidRequest: `name@version` is one version of it."""
        if "@" in name:
            raise InvalidRequest(f"{name} is one version: models.version has it", param="name")
        return Call("GET", path("models", name), ModelDetail)

    @operation("models_delete")
    def delete(
        self, name: str, *, all_versions: bool = False, reason: str | None = None
    ) -> Call[None]:
        """Remove a model that has no versions, or (`all_versions`) together with them.

        Raises Conflict: it has versions; VersionInUse or AliasInUse: something still needs one.
        """
        query = {"all_versions": str(all_versions).lower(), "reason": reason}
        return Call("DELETE", path("models", name), NoneType, query)

    @pages("versions_list")
    def versions(
        self, name: str, *, cursor: str | None = None, limit: int = 50
    ) -> Call[Page[VersionOut]]:
        """Versions, newest first, `limit` to a page."""
        query = {"cursor": cursor, "limit": limit}
        return Call("GET", path("models", name, "versions"), Page[VersionOut], query)

    @operation("versions_get")
    def version(self, name: str, version: str | None = None) -> Call[VersionOut]:
        """One version, like `support-bot@0.2.0`."""
        return Call("GET", _version_path(name, version), VersionOut)

    @operation("versions_set_stage")
    def set_stage(
        self, name: str, version: str | None = None, *, deprecated: bool
    ) -> Call[VersionOut]:
        """Hide a version from `@latest`, or bring it back."""
        where = path("models", *_named_version(name, version))
        return Call("PATCH", where, VersionOut, body=StageSet(deprecated=deprecated))

    @operation("versions_delete")
    def delete_version(
        self, name: str, version: str | None = None, *, reason: str | None = None
    ) -> Call[None]:
        """Remove a version. Raises VersionInUse or AliasInUse: something still needs it."""
        where = path("models", *_named_version(name, version))
        return Call("DELETE", where, NoneType, {"reason": reason})

    @operation("versions_artifacts")
    def artifacts(self, name: str, version: str | None = None) -> Call[Listed[ArtifactOut]]:
        """The files of a version, by digest."""
        return Call("GET", _version_path(name, version, "artifacts"), Listed[ArtifactOut])

    @operation("versions_metrics")
    def metrics(self, name: str, version: str | None = None) -> Call[Listed[MetricOut]]:
        """What was measured while a version was made."""
        return Call("GET", _version_path(name, version, "metrics"), Listed[MetricOut])

    @operation("versions_lineage")
    def lineage(
        self, name: str, version: str | None = None, *, direction: Literal["up", "down"] = "up"
    ) -> Call[LineageOut]:
        """Where a version comes from (`up`), or what came from it (`down`)."""
        where = _version_path(name, version, "lineage")
        return Call("GET", where, LineageOut, {"direction": direction})

    @operation("models_compare")
    def compare(self, name: str, versions: Sequence[str]) -> Call[Listed[ComparisonColumn]]:
        """At most 8 versions of a model, and the last value of each of their metrics."""
        versions = [version_of(name, version) for version in versions]
        return Call(
            "GET",
            path("models", name, "compare"),
            Listed[ComparisonColumn],
            {"versions": ",".join(versions)},
        )

    @operation("aliases_set")
    def set_alias(
        self,
        name: str,
        alias: str,
        version: str,
        *,
        expected_version_id: UUID | None,
        reason: str | None = None,
    ) -> Call[AliasOut]:
        """Move an alias from where the caller saw it (None: nowhere) to `version` of the model.

        Raises AliasMoved: somebody has moved it since.
        """
        version = version_of(name, version)
        body = AliasSet(version=version, expected_version_id=expected_version_id, reason=reason)
        return Call("PUT", path("models", name, "aliases", alias), AliasOut, body=body)

    @operation("aliases_rollback")
    def rollback_alias(
        self, name: str, alias: str, *, expected_version_id: UUID, reason: str | None = None
    ) -> Call[AliasOut]:
        """Point an alias where it pointed before its last move."""
        body = AliasRollback(expected_version_id=expected_version_id, reason=reason)
        where = path("models", name, "aliases", alias, "rollback")
        return Call("POST", where, AliasOut, body=body)

    @operation("aliases_delete")
    def delete_alias(self, name: str, alias: str, *, expected_version_id: UUID) -> Call[None]:
        where = path("models", name, "aliases", alias)
        return Call("DELETE", where, NoneType, {"expected_version_id": str(expected_version_id)})

    # Also here, where a reader of the registry looks for it.
    import_ = Jobs.submit_import
