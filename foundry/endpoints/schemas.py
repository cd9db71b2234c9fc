"""Wire models of endpoints."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field


class EngineConfig(BaseModel):
    """Options of an engine; what is unset follows the server's settings."""

    model_config = ConfigDict(extra="forbid")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    max_model_len: int | None = Field(default=None, ge=16, le=2**24)
    max_num_seqs: int | None = Field(default=None, ge=1, le=4096)
    max_loras: int | None = Field(default=None, ge=1, le=1024)
    max_lora_rank: int | None = Field(default=None, ge=8, le=512)


class EndpointCreate(BaseModel):
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


class EndpointOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    # The row calls it model_reference, the wire calls it model; clients read what the wire says.
    model: str = Field(
        validation_alias=AliasChoices("model_reference", "model"),
        description="the base, name@version",
    )
    model_version_id: UUID
    desired: str
    state: str
    app_name: str
    revision: int
    config: dict[str, object]
    config_generation: int
    last_error: str | None
    progress: dict[str, object]
    created_by: str
    created_at: datetime
    updated_at: datetime


class EndpointList(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    data: list[EndpointOut]
    next_cursor: str | None
