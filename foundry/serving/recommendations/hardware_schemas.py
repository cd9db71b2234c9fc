"""Wire models of hardware: what there is, what it costs, what was measured of it."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CatalogueOut(BaseModel):
    """Every accelerator, with the prices that count for the caller's tenant."""

    data: list[dict[str, object]]
    digest: str = Field(description="sha256 of the catalogue")
    price_version: int = Field(description="0: nobody has set prices")


class PricesIn(_In):
    """Prices of the tenant."""

    prices: dict[str, float | None] = Field(
        max_length=1000, description="$/h by catalogue id; null: the catalogue's price again"
    )
    expected_version: int | None = Field(
        default=None, ge=0, description="refuse if the prices have changed since this version"
    )


class PricesOut(BaseModel):
    """Prices of the tenant."""

    model_config = ConfigDict(from_attributes=True)

    version: int = Field(description="grows with each change")
    prices: dict[str, float] = Field(description="$ per hour by catalogue id")
    created_by: str
    created_at: datetime


class ProbedOut(BaseModel):
    """What a node attains; it counts in place of the catalogue's numbers."""

    model_config = ConfigDict(from_attributes=True)

    gpu: str
    measured: dict[str, float] = Field(description="value by name, in the units of the catalogue")
    measured_at: datetime = Field(description="when, with time zone")
