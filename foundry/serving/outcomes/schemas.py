"""Wire models of outcomes, corrections, models of the predictor and advice.

TTFT runs from arrival at the gateway to the first token; TPOT = (end to end - TTFT)/(output
tokens - 1); throughput counts output tokens per second in which a request was in flight.
"""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from foundry.infra.schemas import Out, PageOut

_MAX_TOKENS = 2**24
_MAX_S = 86_400.0


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class OutcomeOut(Out):
    """What one prediction came to in one window or level of a load test."""

    id: UUID
    endpoint_id: UUID
    revision: int = Field(description="of the endpoint that was measured")
    source: Literal["gateway", "load_test"] = Field(
        description="gateway: requests of users; load_test: those of a test"
    )
    started_at: datetime
    window_s: float = Field(description="length of the window, in seconds")
    gpu: str
    engine: str
    engine_version: str
    configuration: dict[str, object] = Field(description="options of the engine")
    configuration_digest: str = Field(description="sha256 of the configuration, lower-case hex")
    point: dict[str, float] = Field(description="the operating point, for `foundry budsim fit`")
    predictor_version: str
    load: dict[str, float] = Field(description="what was asked of it, by name")
    predicted: dict[str, tuple[float, float, float]] = Field(description="low, point, high")
    applied: dict[str, tuple[float, float]] = Field(
        description="factor and spread of the correction inside `predicted`"
    )
    actual: dict[str, float] = Field(
        description="measured values by target: ttft_p50_ms, tpot_ms and the like"
    )
    covered: dict[str, bool] = Field(
        description="by target, whether the interval held the measured value"
    )
    n: int = Field(description="requests whose TTFT was measured")


class StalenessOut(Out):
    """The alarm PredictionStale of one GPU, engine and engine version."""

    gpu: str
    engine: str
    engine_version: str
    stale: bool = Field(description="predictions cannot be trusted as they are")
    median_ape: float | None = Field(
        description="median absolute error in percent; null: too few windows"
    )
    coverage: float | None = Field(
        description="share of windows whose interval held the measured value; null: too few windows"
    )
    reason: str


class OutcomeList(PageOut[OutcomeOut]):
    """A page of outcomes, and how far predictions can be trusted now."""

    staleness: list[StalenessOut] = Field(
        description="the alarm of every accelerator and engine version"
    )
    refit_due: bool = Field(description="`foundry budsim fit` would learn from what was measured")


class BiasOut(Out):
    """One correction; an empty engine version is the fallback of all versions."""

    gpu: str
    engine: str
    engine_version: str
    target: str = Field(description="value that is corrected, like tpot_ms")
    factor: float = Field(description="multiplies the predicted point")
    spread: float = Field(description="multiplies the interval's width in logs")
    windows: float = Field(description="that it rests on, weighted by age and version")
    measured_at: datetime = Field(description="when the newest window of this version began")
    updated_at: datetime


class RequestIn(_In):
    """One answered request, as its client measured it."""

    input_tokens: int = Field(ge=0, le=_MAX_TOKENS, description="tokens of the prompt")
    output_tokens: int = Field(ge=1, le=_MAX_TOKENS, description="tokens of the answer")
    ttft_s: float = Field(gt=0, le=_MAX_S, description="seconds from sending it to its first token")
    duration_s: float = Field(gt=0, le=_MAX_S, description="seconds from sending it to its end")


class LevelIn(_In):
    """One concurrency of a load test."""

    started_at: AwareDatetime
    duration_s: float = Field(gt=0, le=_MAX_S, description="in which requests were in flight")
    errors: int = Field(default=0, ge=0, description="requests that failed")
    requests: list[RequestIn] = Field(
        min_length=1, max_length=10_000, description="requests that were answered"
    )


class LoadTestIn(_In):
    """A load test of one endpoint."""

    endpoint_id: UUID
    levels: list[LevelIn] = Field(
        min_length=1, max_length=32, description="one for each concurrency that was tried"
    )


class RecalibrateIn(_In):
    """What corrections are computed from, beside the outcomes that are kept."""

    load_test: LoadTestIn | None = Field(
        default=None, description="unset: only compute the corrections anew"
    )


class ComparisonOut(BaseModel):
    """One level, predicted and measured."""

    concurrency: float = Field(description="requests in flight, on average")
    predicted: dict[str, tuple[float, float, float]] = Field(
        description="low, point and high by target"
    )
    actual: dict[str, float] = Field(description="measured value by target")
    covered: dict[str, bool] = Field(
        description="by target, whether the interval held the measured value"
    )


class RecalibrationOut(BaseModel):
    """The corrections that count from now on."""

    levels: list[ComparisonOut] = Field(
        description="levels of the load test, predicted and measured"
    )
    biases: list[BiasOut] = Field(description="every correction")


class ArtifactOut(BaseModel):
    """A predictor that was stored."""

    digest: str = Field(description="sha256 of the uploaded bytes, to register them by")


class ModelOut(Out):
    """A version of the predictor."""

    version: str = Field(description="its name")
    digest: str = Field(description="sha256 of its packed files, lower-case hex")
    status: Literal["active", "shadow", "retired"] = Field(
        description="active: it answers; shadow: it is compared; retired: neither"
    )
    cv: dict[str, float] = Field(description="split → error of the grouped cross-validation")
    reasons: list[str] = Field(description="against a promotion, when it was registered")
    created_at: datetime
    promoted_at: datetime | None = Field(description="when it was made the active one; null: never")


class ModelList(BaseModel):
    """Versions of the predictor, newest first."""

    data: list[ModelOut]


class ModelIn(_In):
    """A predictor that was fitted elsewhere and uploaded."""

    version: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="its name, new")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the uploaded artifact")
    cv: dict[str, float] = Field(
        max_length=1000, description="error in percent of the grouped cross-validation, by split"
    )
    site_cv: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        max_length=1000,
        description="deployment → errors of the active model and of this one on its windows",
    )


class AdviceOut(Out):
    """A better configuration for a running endpoint."""

    endpoint_id: UUID
    revision: int = Field(description="of the endpoint that the advice is about")
    reason: str
    saving: float | None = Field(description="share of the present cost per hour")
    recommendation_id: UUID | None
    recommendation: dict[str, object] = Field(
        description="the answer of the search, whose `configuration` is advised"
    )
    created_at: datetime


class AdviceList(PageOut[AdviceOut]):
    """A page of advice."""
