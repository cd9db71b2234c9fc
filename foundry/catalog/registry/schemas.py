"""Wire models of the registry."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from foundry.catalog.registry.domain import derive_model_name as derive_model_name


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class ModelOut(_Out):
    id: UUID
    name: str
    kind: str = Field(description="base, adapter or merged")
    architecture: str | None
    parameter_count: int | None
    context_length: int | None = Field(
        description="tokens, of the checkpoint; GET /v1/models tells what a deployment serves"
    )
    licence: str | None
    tags: list[str]
    created_by: str
    created_at: datetime


class AliasOut(_Out):
    name: str
    version_id: UUID
    version: str
    row_version: int = Field(description="grows with each move")
    protected: bool
    updated_at: datetime


class ModelDetail(ModelOut):
    aliases: list[AliasOut]
    latest_version: str | None = Field(description="what @latest means now")
    version_count: int = Field(
        default=0, description="versions that are not deleted; a thousand is a thousand or more"
    )


class ModelList(_Out):
    data: list[ModelDetail]
    next_cursor: str | None


class VersionOut(_Out):
    id: UUID
    model_id: UUID
    name: str = Field(description="the model's name")
    version: str = Field(description="Semantic Version 2.0.0")
    reference: str = Field(description="name@version, for requests")
    kind: str
    stage: str
    relation: str
    digest: str = Field(description="sha256 over path, size and sha256 of the files; hex")
    size_bytes: int
    parent_version_id: UUID | None
    base_version_id: UUID | None
    job_id: UUID | None
    dataset_version_id: UUID | None
    architecture: str | None
    parameter_count: int | None
    context_length: int | None = Field(
        description="tokens, of the checkpoint; GET /v1/models tells what a deployment serves"
    )
    lora_rank: int | None
    lora_targets: list[str] | None
    config_digest: str | None
    code_ref: str | None
    created_by: str
    created_at: datetime


class VersionList(_Out):
    data: list[VersionOut]
    next_cursor: str | None


class MetricOut(_Out):
    name: str
    step: int
    value: float
    at: datetime


class MetricList(_Out):
    data: list[MetricOut]


class ArtifactOut(_Out):
    path: str
    size: int
    sha256: str
    media_type: str


class ArtifactList(_Out):
    data: list[ArtifactOut]


class LineageEdgeOut(_Out):
    child_id: UUID
    parent_id: UUID
    relation: str = Field(description="how the child came from it; `base` for an adapter's base")


class LineageDatasetOut(_Out):
    id: UUID = Field(description="the `dataset_version_id` of a version")
    reference: str = Field(description="name@version")


class LineageOut(_Out):
    versions: list[VersionOut]
    edges: list[LineageEdgeOut]
    datasets: list[LineageDatasetOut] = Field(
        default=[], description="what the versions were trained on"
    )


class ComparisonColumn(_Out):
    version: VersionOut
    metrics: dict[str, float] = Field(description="last value of each metric")


class ComparisonOut(_Out):
    data: list[ComparisonColumn]


class AliasSet(BaseModel):
    """A compare-and-set: whoever read a stale alias cannot overwrite a newer one."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(description="a version of this model, like 0.2.0, or an alias of it")
    expected_version_id: UUID | None = Field(
        description="where the alias points now; null: it must not exist"
    )
    reason: str | None = Field(default=None, max_length=1024)


class AliasRollback(BaseModel):
    model_config = ConfigDict(extra="forbid")

    expected_version_id: UUID
    reason: str | None = Field(default=None, max_length=1024)


class StageSet(BaseModel):
    model_config = ConfigDict(extra="forbid")

    deprecated: bool = Field(
        description="true hides the version from @latest; false brings it back"
    )
