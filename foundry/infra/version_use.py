"""What still uses a version of a model or a dataset: asked before it is deleted.

The slice that deletes knows no slice above it; the application brings it those that may use its
versions.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class VersionUse:
    """One use of a version.

    Attributes:
        user: in words, like "job 0198… (support-bot)".
    """

    version_id: UUID
    user: str


class UseFinder(Protocol):
    """Knows one kind of use."""

    async def find_use(self, version_ids: Collection[UUID]) -> VersionUse | None:
        """One use of one of the versions; None: there is none."""
