"""Wire models of datasets."""

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from foundry.catalog.datasets.domain import LATEST as LATEST
from foundry.catalog.datasets.domain import Reference as Reference
from foundry.catalog.datasets.domain import Split as Split
from foundry.engines.training.messages.shape import PART_FIELDS as PART_FIELDS
from foundry.engines.training.messages.shape import REASONING_FIELDS as REASONING_FIELDS
from foundry.infra.schemas import Out, PageOut


class DatasetSummary(Out):
    """A version without its files."""

    number: int = Field(description="counts the versions of a dataset from 1")
    reference: str = Field(description="name@number")
    kind: str = Field(description="chat or prompt_completion")
    train_rows: int = Field(description="rows to train on")
    eval_rows: int = Field(description="held out: a model is measured on them")
    created_at: datetime


class DatasetOut(Out):
    """A dataset, whose versions hold rows."""

    id: UUID
    name: str
    versions: int = Field(description="how many there are, without the deleted ones")
    latest: DatasetSummary = Field(description="the newest version, which the bare name means")
    created_by: str
    created_at: datetime


class DatasetList(PageOut[DatasetOut]):
    """A page of datasets, by name."""


class DatasetFileOut(Out):
    """A file of a version."""

    path: str
    size: int = Field(description="bytes")
    sha256: str = Field(description="lower-case hex")


class DatasetVersionOut(Out):
    """A version of a dataset: checked rows, split for training and evaluation."""

    id: UUID
    name: str
    number: int = Field(description="counts the versions of a dataset from 1")
    reference: str = Field(description="name@number")
    digest: str = Field(description="sha256 of the manifest, hex")
    kind: str = Field(description="chat or prompt_completion")
    train_rows: int = Field(description="rows to train on")
    eval_rows: int = Field(description="held out: a model is measured on them")
    duplicate_rows: int = Field(description="exact duplicates that were left out")
    bad_rows: int = Field(description="invalid rows that were left out")
    options: dict[str, object] = Field(
        description="how it was added, and in uses what rows have beside text"
    )
    files: list[DatasetFileOut] = Field(description="what it consists of")
    created_by: str
    created_at: datetime
    deleted_at: datetime | None = Field(
        default=None, description="since then only this record is left: the rows are gone"
    )
    deleted_by: str | None = Field(default=None, description="who deleted it; null: nobody")
    delete_reason: str | None = Field(
        default=None, description="why it was deleted; null: nobody said"
    )


class DatasetAdded(DatasetVersionOut):
    """The version that holds the uploaded rows."""

    created: bool = Field(
        default=True, description="false: these rows, split alike, were this version already"
    )

    @classmethod
    def of(cls, version: object, created: bool) -> Self:
        """What was stored, or found."""
        return cls.model_validate(version).model_copy(update={"created": created})


class DatasetVersionList(PageOut[DatasetVersionOut]):
    """A page of versions, newest first."""


class DatasetRows(BaseModel):
    """Rows of a split: conversations, or prompts with completions."""

    data: list[dict[str, object]]
