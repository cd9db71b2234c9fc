"""Wire models of outcomes, corrections, models of the predictor and advice.

TTFT runs from arrival at the gateway to the first token; TPOT = (end to end - TTFT)/(output
tokens - 1); throughput counts output tokens per second in which a request was in flight.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

_MAX_TOKENS = 2**24
_MAX_S = 86_400.0


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class OutcomeOut(_Out):
    id: UUID
    endpoint_id: UUID
    revision: int
    source: Literal["gateway", "load_test"]
    started_at: datetime
    window_s: float
    gpu: str
    engine: str
    engine_version: str
    configuration: dict[str, object]
    configuration_digest: str
    point: dict[str, float] = Field(description="the operating point, for `foundry budsim fit`")
    predictor_version: str
    load: dict[str, float]
    predicted: dict[str, tuple[float, float, float]] = Field(description="low, point, high")
    applied: dict[str, tuple[float, float]] = Field(
        description="factor and spread of the correction inside `predicted`"
    )
    actual: dict[str, float]
    covered: dict[str, bool]
    n: int = Field(description="requests whose TTFT was measured")


class StalenessOut(_Out):
    """The alarm PredictionStale of one GPU, engine and engine version."""

    gpu: str
    engine: str
    engine_version: str
    stale: bool
    median_ape: float | None
    coverage: float | None
    reason: str


class OutcomeList(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    data: list[OutcomeOut]
    next_cursor: str | None
    staleness: list[StalenessOut]
    refit_due: bool = Field(description="`foundry budsim fit` would learn from what was measured")


class BiasOut(_Out):
    """One correction; an empty engine version is the fallback of all versions."""

    gpu: str
    engine: str
    engine_version: str
    target: str
    factor: float = Field(description="multiplies the predicted point")
    spread: float = Field(description="multiplies the interval's width in logs")
    windows: float = Field(description="that it rests on, weighted by age and version")
    measured_at: datetime = Field(description="when the newest window of this version began")
    updated_at: datetime


class RequestIn(_In):
    """One answered request, as its client measured it."""

    input_tokens: int = Field(ge=0, le=_MAX_TOKENS)
    output_tokens: int = Field(ge=1, le=_MAX_TOKENS)
    ttft_s: float = Field(gt=0, le=_MAX_S)
    duration_s: float = Field(gt=0, le=_MAX_S)


class LevelIn(_In):
    """One concurrency of a load test."""

    started_at: AwareDatetime
    duration_s: float = Field(gt=0, le=_MAX_S, description="in which requests were in flight")
    errors: int = Field(default=0, ge=0)
    requests: list[RequestIn] = Field(min_length=1, max_length=10_000)


class LoadTestIn(_In):
    endpoint_id: UUID
    levels: list[LevelIn] = Field(min_length=1, max_length=32)


class RecalibrateIn(_In):
    load_test: LoadTestIn | None = Field(
        default=None, description="unset: only compute the corrections anew"
    )


class ComparisonOut(BaseModel):
    """One level, predicted and measured."""

    concurrency: float
    predicted: dict[str, tuple[float, float, float]]
    actual: dict[str, float]
    covered: dict[str, bool]


class RecalibrationOut(BaseModel):
    levels: list[ComparisonOut]
    biases: list[BiasOut]


class ArtifactOut(BaseModel):
    digest: str = Field(description="sha256 of the uploaded bytes, to register them by")


class ModelOut(_Out):
    version: str
    digest: str
    status: Literal["active", "shadow", "retired"]
    cv: dict[str, float] = Field(description="split → error of the grouped cross-validation")
    reasons: list[str] = Field(description="against a promotion, when it was registered")
    created_at: datetime
    promoted_at: datetime | None


class ModelList(BaseModel):
    data: list[ModelOut]


class ModelIn(_In):
    version: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the uploaded artifact")
    cv: dict[str, float] = Field(max_length=1000)
    site_cv: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        max_length=1000,
        description="deployment → errors of the active model and of this one on its windows",
    )


class AdviceOut(_Out):
    endpoint_id: UUID
    revision: int
    reason: str
    saving: float | None = Field(description="share of the present cost per hour")
    recommendation_id: UUID | None
    recommendation: dict[str, object]
    created_at: datetime


class AdviceList(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    data: list[AdviceOut]
    next_cursor: str | None
