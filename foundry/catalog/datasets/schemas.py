"""Wire models of datasets."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from foundry.catalog.datasets.domain import Split as Split


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class DatasetOut(_Out):
    id: UUID
    name: str
    created_by: str
    created_at: datetime


class DatasetList(_Out):
    data: list[DatasetOut]
    next_cursor: str | None


class DatasetFileOut(_Out):
    path: str
    size: int
    sha256: str


class DatasetVersionOut(_Out):
    id: UUID
    name: str
    number: int
    reference: str = Field(description="name@number")
    digest: str = Field(description="sha256 of the manifest, hex")
    kind: str = Field(description="chat or prompt_completion")
    train_rows: int
    eval_rows: int
    duplicate_rows: int = Field(description="exact duplicates that were left out")
    bad_rows: int = Field(description="invalid rows that were left out")
    options: dict[str, object]
    files: list[DatasetFileOut]
    created_by: str
    created_at: datetime


class DatasetVersionList(_Out):
    data: list[DatasetVersionOut]
    next_cursor: str | None


class DatasetRows(BaseModel):
    data: list[dict[str, object]]
