"""Wire models of the registry."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from foundry.catalog.registry.domain import derive_model_name as derive_model_name
from foundry.infra.schemas import Out, PageOut


class ModelOut(Out):
    """A model, whose versions hold weights."""

    id: UUID
    name: str
    kind: str = Field(description="base, adapter or merged")
    architecture: str | None = Field(description="like LlamaForCausalLM; null: unknown")
    parameter_count: int | None = Field(description="weights; null: unknown")
    context_length: int | None = Field(
        description="tokens, of the checkpoint; GET /v1/models tells what a deployment serves"
    )
    licence: str | None = Field(description="as its files tell; null: unknown")
    tags: list[str]
    created_by: str
    created_at: datetime


class AliasOut(Out):
    """A name that points at a version."""

    name: str
    version_id: UUID
    version: str = Field(description="Semantic Version that it points at")
    row_version: int = Field(description="grows with each move")
    protected: bool = Field(description="moving it needs the permission registry:promote")
    updated_at: datetime


class ModelDetail(ModelOut):
    """A model with its aliases."""

    aliases: list[AliasOut] = Field(description="names that point at versions")
    latest_version: str | None = Field(description="what @latest means now")
    version_count: int = Field(
        default=0, description="versions that are not deleted; a thousand is a thousand or more"
    )


class ModelList(PageOut[ModelDetail]):
    """A page of models, by name."""


class VersionOut(Out):
    """A version of a model."""

    id: UUID
    model_id: UUID
    name: str = Field(description="the model's name")
    version: str = Field(description="Semantic Version 2.0.0")
    reference: str = Field(description="name@version, for requests")
    kind: str
    stage: str = Field(
        description="uploading, scanning, ready, quarantined, deprecated or tombstoned"
    )
    relation: str = Field(description="how it came from its parent, like sft")
    digest: str = Field(description="sha256 over path, size and sha256 of the files; hex")
    size_bytes: int = Field(description="of all of its files")
    parent_version_id: UUID | None = Field(
        description="id of the version that it came from; null: none"
    )
    base_version_id: UUID | None = Field(
        description="id of the base that an adapter belongs to; null: it is no adapter"
    )
    job_id: UUID | None
    dataset_version_id: UUID | None = Field(
        description="id of the dataset's version that it was trained on; null: none"
    )
    architecture: str | None = Field(description="like LlamaForCausalLM; null: unknown")
    parameter_count: int | None = Field(description="weights; null: unknown")
    context_length: int | None = Field(
        description="tokens, of the checkpoint; GET /v1/models tells what a deployment serves"
    )
    lora_rank: int | None = Field(description="rank of an adapter; null: it is none")
    lora_targets: list[str] | None = Field(
        description="modules that an adapter changes; null: it is none"
    )
    config_digest: str | None = Field(
        description="sha256 of the training's options, lower-case hex"
    )
    code_ref: str | None = Field(description="version of the code that made it")
    created_by: str
    created_at: datetime


class VersionList(PageOut[VersionOut]):
    """A page of versions, newest first."""


class MetricOut(Out):
    """A measured value."""

    name: str
    step: int
    value: float = Field(description="what was measured")
    at: datetime


class MetricList(Out):
    """What was measured while a version was made."""

    data: list[MetricOut]


class ArtifactOut(Out):
    """A file of a version."""

    path: str
    size: int
    sha256: str
    media_type: str = Field(description="what kind of file it is")


class ArtifactList(Out):
    """The files of a version."""

    data: list[ArtifactOut]


class LineageEdgeOut(Out):
    """One step from a version to what came from it."""

    child_id: UUID = Field(description="id of the version that came")
    parent_id: UUID = Field(description="id of the version that it came from")
    relation: str = Field(description="how the child came from it; `base` for an adapter's base")


class LineageDatasetOut(Out):
    """A dataset that versions were trained on."""

    id: UUID = Field(description="the `dataset_version_id` of a version")
    reference: str = Field(description="name@version")


class LineageOut(Out):
    """Where versions come from."""

    versions: list[VersionOut] = Field(description="every version on the way")
    edges: list[LineageEdgeOut] = Field(description="what came from what")
    datasets: list[LineageDatasetOut] = Field(
        default=[], description="what the versions were trained on"
    )


class ComparisonColumn(Out):
    """One of the versions that are compared."""

    version: VersionOut = Field(description="the version")
    metrics: dict[str, float] = Field(description="last value of each metric")


class ComparisonOut(Out):
    """Versions side by side."""

    data: list[ComparisonColumn]


class AliasSet(BaseModel):
    """A compare-and-set: whoever read a stale alias cannot overwrite a newer one."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(
        description="a version of this model, like 0.2.0 or name@0.2.0, or an alias of it"
    )
    expected_version_id: UUID | None = Field(
        description="where the alias points now; null: it must not exist"
    )
    reason: str | None = Field(default=None, max_length=1024)


class AliasRollback(BaseModel):
    """Where an alias points before it goes back."""

    model_config = ConfigDict(extra="forbid")

    expected_version_id: UUID = Field(description="id of the version that the alias points at now")
    reason: str | None = Field(default=None, max_length=1024)


class StageSet(BaseModel):
    """Whether a version is hidden."""

    model_config = ConfigDict(extra="forbid")

    deprecated: bool = Field(
        description="true hides the version from @latest; false brings it back"
    )
