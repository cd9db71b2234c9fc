"""Models, their versions and aliases."""

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from types import NoneType
from typing import Literal
from uuid import UUID

from foundry.catalog.registry.schemas import (
    AliasOut,
    AliasRollback,
    AliasSet,
    ArtifactList,
    ComparisonOut,
    LineageOut,
    MetricList,
    ModelDetail,
    ModelList,
    StageSet,
    VersionList,
    VersionOut,
)
from foundry.execution.jobs.schemas import ImportSubmit, JobOut
from foundry.sdk._transport import Call, Resource, S_co, operation, path

_SCHEMES = ("bundled", "file", "hf")


class Models(Resource[S_co]):
    """A `version` is a Semantic Version, or an alias: `0.2.0`, `production`, `latest`."""

    @operation("models_list")
    def list(
        self,
        *,
        prefix: str | None = None,
        kind: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Call[ModelList]:
        """One page of models whose names begin with `prefix`; kind: base, adapter, merged."""
        query = {"q": prefix, "kind": kind, "cursor": cursor, "limit": limit}
        return Call("GET", path("models"), ModelList, query)

    @operation("models_get")
    def get(self, name: str) -> Call[ModelDetail]:
        """A model with its aliases."""
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

    @operation("versions_list")
    def versions(
        self, name: str, *, cursor: str | None = None, limit: int = 50
    ) -> Call[VersionList]:
        """One page of versions, newest first."""
        query = {"cursor": cursor, "limit": limit}
        return Call("GET", path("models", name, "versions"), VersionList, query)

    @operation("versions_get")
    def version(self, name: str, version: str) -> Call[VersionOut]:
        return Call("GET", path("models", name, "versions", version), VersionOut)

    @operation("versions_set_stage")
    def set_stage(self, name: str, version: str, *, deprecated: bool) -> Call[VersionOut]:
        """Hide a version from `@latest`, or bring it back."""
        where = path("models", name, "versions", version)
        return Call("PATCH", where, VersionOut, body=StageSet(deprecated=deprecated))

    @operation("versions_delete")
    def delete_version(self, name: str, version: str, *, reason: str | None = None) -> Call[None]:
        """Raises VersionInUse or AliasInUse: something still needs it."""
        where = path("models", name, "versions", version)
        return Call("DELETE", where, NoneType, {"reason": reason})

    @operation("versions_artifacts")
    def artifacts(self, name: str, version: str) -> Call[ArtifactList]:
        """The files of a version, by digest."""
        return Call("GET", path("models", name, "versions", version, "artifacts"), ArtifactList)

    @operation("versions_metrics")
    def metrics(self, name: str, version: str) -> Call[MetricList]:
        return Call("GET", path("models", name, "versions", version, "metrics"), MetricList)

    @operation("versions_lineage")
    def lineage(
        self, name: str, version: str, *, direction: Literal["up", "down"] = "up"
    ) -> Call[LineageOut]:
        """Where a version comes from (`up`), or what came from it (`down`)."""
        where = path("models", name, "versions", version, "lineage")
        return Call("GET", where, LineageOut, {"direction": direction})

    @operation("models_compare")
    def compare(self, name: str, versions: Sequence[str]) -> Call[ComparisonOut]:
        """At most 8 versions and the last value of each of their metrics."""
        return Call(
            "GET", path("models", name, "compare"), ComparisonOut, {"versions": ",".join(versions)}
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
        """Move an alias from where the caller saw it (None: nowhere) to `version`.

        Raises AliasMoved: somebody has moved it since.
        """
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

    @operation("jobs_submit_import")
    def import_(
        self,
        name: str,
        source: str | PathLike[str],
        *,
        base: str | None = None,
        force: bool = False,
    ) -> Call[JobOut]:
        """Start a job that registers a model which the server can read.

        Args:
            source: a directory, `hf:ORG/NAME[@REVISION]` or `bundled:smollm2-135m`.
            base: what an adapter was trained from; None: the model that it names itself.
        """
        body = ImportSubmit(name=name, source=write_source(source), base=base, force=force)
        return Call("POST", path("jobs", "import"), JobOut, body=body)


def write_source(source: str | PathLike[str]) -> str:
    """A source as the server is told it: a directory without `~`, `..` and the place it is from."""
    text = fspath(source)
    if isinstance(source, str) and text.partition(":")[0] in _SCHEMES:
        return text
    return Path(text).expanduser().resolve().as_uri()
