"""Wire models of endpoints."""

from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from foundry.engines.budsim.request import KvDtype, Method, Quantization, Runtime
from foundry.infra.schemas import Out, PageOut
from foundry.serving.endpoints.domain import RESTING as RESTING
from foundry.serving.endpoints.domain import SERVING as SERVING
from foundry.serving.endpoints.domain import EndpointState as EndpointState
from foundry.serving.endpoints.domain import Strategy
from foundry.serving.endpoints.domain import deploy_command as deploy_command
from foundry.serving.recommendations.schemas import ClusterIn, PolicyIn, TargetsIn, WorkloadIn

MAX_REPLICAS = 1000
Optimization = Literal["REGRESSOR", "PRIOR", "MANUAL"]


class EngineResources(BaseModel):
    """What one replica is given."""

    model_config = ConfigDict(extra="forbid")

    gpu_type: str | None = Field(default=None, max_length=128, description="catalogue id")
    gpu_count: int | None = Field(
        default=None, ge=0, le=64, description="accelerators of one replica"
    )
    cpu_cores: float | None = Field(default=None, gt=0, le=4096, description="cores of one replica")
    memory_gb: float | None = Field(
        default=None, gt=0, le=2**20, description="memory of one replica, GiB"
    )


class EngineConfig(BaseModel):
    """Options of an engine; what is unset follows the server's settings."""

    model_config = ConfigDict(extra="forbid")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="number format of the computation; auto: float32 on a CPU, else the model's",
    )
    max_model_len: int | None = Field(default=None, ge=16, le=2**24)
    max_num_seqs: int | None = Field(default=None, ge=1, le=4096)
    max_loras: int | None = Field(
        default=None, ge=1, le=1024, description="adapters active at once in one replica"
    )
    max_lora_rank: int | None = Field(
        default=None, ge=8, le=512, description="largest rank of an adapter that is served"
    )
    runtime: Runtime | None = None
    tensor_parallel_size: int | None = Field(default=None, ge=1, le=64)
    pipeline_parallel_size: int | None = Field(default=None, ge=1, le=64)
    max_num_batched_tokens: int | None = Field(default=None, ge=16, le=2**24)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    quantization: Quantization | None = None
    kv_cache_dtype: KvDtype | None = None
    replicas: int | None = Field(default=None, ge=1, le=MAX_REPLICAS)
    resources: EngineResources | None = Field(default=None, description="what one replica is given")
    strategy: Strategy | None = Field(
        default=None,
        description="how a new revision replaces the running one; surge: beside it, recreate: "
        "after it; unset: surge where both have room",
    )


# What an optimiser leaves to the user; all else of a configuration is its answer.
KEPT = frozenset({"dtype", "max_loras", "max_lora_rank", "strategy"})
_ASKED = KEPT | {"runtime", "max_model_len"}


class EndpointConfigure(EngineConfig):
    """A configuration as it is (MANUAL), or what it must achieve (REGRESSOR, PRIOR).

    With targets and no method, REGRESSOR; a recommended configuration sent back is MANUAL.
    """

    optimization_method: Optimization | None = Field(
        default=None, description="REGRESSOR: measured data and physics; PRIOR: physics only"
    )
    performance_targets: TargetsIn | None = Field(
        default=None, description="what the configuration must keep"
    )
    workload: WorkloadIn | None = Field(default=None, description="unset: that of the last time")
    policy: PolicyIn | None = None
    cluster: ClusterIn | None = Field(default=None, description="unset: the live cluster")
    deployment: dict[str, object] | str | None = Field(
        default=None, description="MANUAL: the deployment file, as JSON or YAML text"
    )

    @property
    def method(self) -> Optimization:
        if self.optimization_method is not None:
            return self.optimization_method
        asks = self.performance_targets is not None
        return "REGRESSOR" if asks and self.deployment is None else "MANUAL"

    @property
    def prediction_method(self) -> Method:
        return "PRIOR" if self.method == "PRIOR" else "REGRESSOR"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = set(self.engine())
        if self.method == "MANUAL":
            if self.deployment is not None and given - KEPT:
                raise ValueError("give deployment or single options, not both")
            return self
        if self.deployment is not None:
            raise ValueError("deployment goes with optimization_method MANUAL")
        if decided := sorted(given - _ASKED):
            raise ValueError(
                f"{', '.join(decided)}: {self.method} finds it; leave it out or use MANUAL"
            )
        return self

    def engine(self) -> dict[str, object]:
        """The options that are set."""
        return self.model_dump(include=set(EngineConfig.model_fields), exclude_none=True)


class EndpointCreate(BaseModel):
    """An endpoint for a model's base."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        max_length=320, description="a base, or an adapter: then its base gets the endpoint"
    )
    name: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$",
        description="default: the base's name",
    )
    config: EngineConfig = Field(default_factory=EngineConfig)
    deploy: bool = Field(default=False, description="also start it")


class EndpointOut(Out):
    """An endpoint: a base that is served, with all adapters of it."""

    id: UUID
    name: str
    # The row calls it model_reference, the wire calls it model; clients read what the wire says.
    model: str = Field(
        validation_alias=AliasChoices("model_reference", "model"),
        description="the base, name@version",
    )
    model_version_id: UUID
    desired: str = Field(description="what was asked for: running, stopped or deleted")
    state: str = Field(description="how it is: CREATED to RUNNING, DEGRADED, STOPPED or FAILED")
    app_name: str = Field(description="name of what serves it in Ray")
    revision: int = Field(description="that requests reach, or will reach first")
    serving_revision: int | None = Field(default=None, description="that requests reach now")
    target_revision: int | None = Field(default=None, description="that is wanted")
    config: dict[str, object]
    config_generation: int = Field(description="grows with each change of the configuration")
    optimization: dict[str, object] | None = Field(
        default=None, description="the method, targets and workload of the last configuration"
    )
    recommendation_id: UUID | None = Field(
        default=None, description="to review: the next deploy applies it"
    )
    next_config: dict[str, object] | None = Field(
        default=None, description="options that the next deploy applies"
    )
    last_error: str | None = Field(description="why it failed last; null: it has not")
    progress: dict[str, object]
    created_by: str
    created_at: datetime
    updated_at: datetime
    note: str | None = Field(
        default=None,
        description="what this request has found to be so already, so that it changed nothing",
    )


class EndpointList(PageOut[EndpointOut]):
    """A page of endpoints."""


class EndpointScale(BaseModel):
    """How many replicas are wanted."""

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(ge=1, le=MAX_REPLICAS)


class EndpointRollback(BaseModel):
    """An earlier configuration."""

    model_config = ConfigDict(extra="forbid")

    revision: int = Field(ge=1, le=2**31 - 1, description="whose configuration is to run again")


class RevisionOut(Out):
    """One configuration of an endpoint that was, is or will be served."""

    number: int = Field(description="counts from 1")
    state: str = Field(description="how it is")
    desired: str = Field(description="running or removed")
    app_name: str = Field(description="name of what serves it in Ray")
    config: dict[str, object]
    config_digest: str = Field(description="sha256 of base and configuration, lower-case hex")
    replicas: int
    strategy: str | None = Field(description="how it replaces the revision before it")
    reason: str | None = Field(description="why it is in this state")
    progress: dict[str, object]
    deadline_at: datetime | None = Field(description="when this state ends in failure")
    created_by: str
    created_at: datetime
    updated_at: datetime


class RevisionList(PageOut[RevisionOut]):
    """A page of revisions, newest first."""


class OptionChangeOut(Out):
    """An option in which two revisions differ."""

    field: str = Field(description="name of the option")
    before: object = Field(description="null: unset")
    after: object = Field(description="null: unset")


class RevisionDiffOut(Out):
    """Options in which two revisions differ."""

    before: int = Field(description="number of one revision")
    after: int = Field(description="number of the other")
    changes: list[OptionChangeOut] = Field(description="one for each option that differs")
