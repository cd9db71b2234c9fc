"""Wire models of jobs."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from foundry.engines.training.config import Full as Full
from foundry.engines.training.config import Lora as Lora
from foundry.engines.training.config import SftConfig as SftConfig
from foundry.engines.training.diloco.config import Bf16 as Bf16
from foundry.engines.training.diloco.config import DilocoConfig as DilocoConfig
from foundry.engines.training.diloco.config import E3m0 as E3m0
from foundry.engines.training.diloco.config import FleetConfig as FleetConfig
from foundry.engines.training.diloco.config import Fp32 as Fp32
from foundry.engines.training.diloco.config import InnerConfig as InnerConfig
from foundry.engines.training.diloco.config import Int8 as Int8
from foundry.engines.training.diloco.config import OuterConfig as OuterConfig
from foundry.engines.training.diloco.config import TopK as TopK
from foundry.execution.jobs.domain import ACTIVE as ACTIVE
from foundry.execution.jobs.domain import ENDED as ENDED
from foundry.execution.jobs.domain import MAX_PRIORITY, MIN_PRIORITY
from foundry.execution.jobs.sources import SCHEMES as SCHEMES
from foundry.infra.schemas import Out, PageOut

_NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,127}$"


class _TrainingSubmit(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=_NAME_PATTERN, description="the model that gets a new version")
    base: str = Field(max_length=320, description="a model reference, like smollm2-135m")
    dataset: str = Field(max_length=320, description="a dataset reference, like support@1")
    force: bool = Field(
        default=False, description="train again although the same job is active or has succeeded"
    )
    submission_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="the Ray job that asks and will be the driver itself; unset: one is started",
    )
    priority: int = Field(
        default=0,
        ge=MIN_PRIORITY,
        le=MAX_PRIORITY,
        description="a job with a higher one is admitted first; among equals the older",
    )


class SftSubmit(_TrainingSubmit):
    """Fine-tune `base` on `dataset`; the result becomes a version of the model `name`."""

    config: SftConfig = Field(default_factory=SftConfig)


class DilocoSubmit(_TrainingSubmit):
    """Fine-tune `base` on `dataset` with workers that synchronise now and then."""

    config: DilocoConfig = Field(default_factory=DilocoConfig)


class ImportSubmit(BaseModel):
    """Register a model that the server can read."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=_NAME_PATTERN, description="the model that gets a new version")
    source: str = Field(
        max_length=4096,
        description="bundled:smollm2-135m; file:///directory of the server, in the layout of "
        "Hugging Face, PEFT or the hub's cache; or hf:ORG/NAME[@REVISION] of the server's mirror",
    )
    base: str | None = Field(
        default=None,
        max_length=320,
        description="the model that an adapter was trained from; unset: the one that its "
        "adapter_config.json names, if a model here is called so",
    )
    force: bool = Field(
        default=False, description="import again although the same files were imported already"
    )
    priority: int = Field(
        default=0,
        ge=MIN_PRIORITY,
        le=MAX_PRIORITY,
        description="a job with a higher one is admitted first; among equals the older",
    )


class JobOut(Out):
    """A job: fine-tuning or an import."""

    id: UUID
    kind: str
    name: str
    state: str = Field(description="QUEUED to RUNNING; in the end SUCCEEDED, FAILED or CANCELLED")
    attempt: int = Field(description="how often it was begun")
    failures: int = Field(
        default=0, description="attempts that failed since it was last queued by a person"
    )
    priority: int = Field(default=0, description="a job with a higher one is admitted first")
    waiting_for: str | None = Field(default=None, description="why it has not begun")
    retry_at: datetime | None = Field(
        default=None, description="when its next attempt may begin after one that failed"
    )
    phase: str | None = Field(default=None, description="what its attempt is doing")
    submission_id: str | None = Field(description="Ray job that drives it; null: none yet")
    cancel_requested: bool = Field(description="it ends as soon as it can")
    spec: dict[str, object] = Field(description="what was asked for, with versions pinned")
    progress: dict[str, object]
    error: dict[str, object] | None
    result: dict[str, object] | None = Field(
        description="what it made: the reference and metrics of a version; null: nothing yet"
    )
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    note: str | None = Field(
        default=None,
        description="what this request has found to be so already, so that it changed nothing",
    )


class JobList(PageOut[JobOut]):
    """A page of jobs, newest first."""


class JobMetricOut(Out):
    """A measured value of one step."""

    step: int
    name: str
    value: float = Field(description="what was measured")
    at: datetime


class JobMetricList(BaseModel):
    """Metrics of a job, by step."""

    data: list[JobMetricOut]


class JobLogOut(Out):
    """A chunk of what a job has printed."""

    seq: int = Field(description="number of the chunk, from 1")
    text: str = Field(description="lines as they were printed")
    at: datetime


class JobLogList(BaseModel):
    """Chunks of a job's output, in order."""

    data: list[JobLogOut]
