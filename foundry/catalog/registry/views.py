"""What the registry answers beside rows, and whom it asks of other slices."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from foundry.catalog.registry.tables import Alias, Model, ModelVersion


class DatasetNamer(Protocol):
    """Asked what the data of versions is called."""

    async def name_versions(self, ids: Collection[UUID]) -> Mapping[UUID, str]:
        """`name@N` of those that are known."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model with where its names point, and how many versions it has."""

    model: Model
    aliases: list[Alias]
    latest_version: str | None
    version_count: int

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)


@dataclass(frozen=True, slots=True)
class LineageEdge:
    child_id: UUID
    parent_id: UUID
    relation: str


@dataclass(frozen=True, slots=True)
class LineageDataset:
    id: UUID
    reference: str


@dataclass(frozen=True, slots=True)
class Lineage:
    versions: Sequence[ModelVersion]
    edges: list[LineageEdge]
    datasets: list[LineageDataset]


@dataclass(frozen=True, slots=True)
class Comparison:
    version: ModelVersion
    metrics: dict[str, float]
