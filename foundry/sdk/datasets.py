"""Datasets and their versions."""

from pathlib import Path

from foundry.catalog.datasets.schemas import (
    DatasetList,
    DatasetRows,
    DatasetVersionList,
    DatasetVersionOut,
    Split,
)
from foundry.errors import InvalidRequest
from foundry.sdk._transport import Call, Query, Resource, S_co, operation, path


class Datasets(Resource[S_co]):
    """A `number` counts a dataset's versions from 1; None means the newest."""

    @operation("datasets_add")
    def add(
        self,
        name: str,
        source: Path | str | bytes,
        *,
        filename: str | None = None,
        eval_fraction: float = 0.1,
        seed: int = 0,
        max_bad_fraction: float = 0.0,
    ) -> Call[DatasetVersionOut]:
        """Upload a file, or its bytes, as a version; the same bytes are the same version.

        Args:
            filename: its suffix names the format (.jsonl, .jsonl.gz, .jsonl.zst, .parquet);
                needed with bytes.
            eval_fraction: expected share of prompts held out, 0 < x < 1.
            max_bad_fraction: share of invalid rows that may be dropped, 0 <= x < 1.
        Raises InvalidDataset: names the rows and fields that are wrong.
        """
        body = source if isinstance(source, bytes) else Path(source)
        if filename is None:
            if isinstance(body, bytes):
                raise InvalidRequest("bytes need a filename, whose suffix names their format")
            filename = body.name
        query: Query = {
            "filename": filename,
            "eval_fraction": eval_fraction,
            "seed": seed,
            "max_bad_fraction": max_bad_fraction,
        }
        where = path("datasets", name, "versions")
        return Call("POST", where, DatasetVersionOut, query, body, slow=True)

    @operation("datasets_list")
    def list(self, *, cursor: str | None = None, limit: int = 50) -> Call[DatasetList]:
        return Call("GET", path("datasets"), DatasetList, {"cursor": cursor, "limit": limit})

    @operation("datasets_versions")
    def versions(
        self, name: str, *, cursor: str | None = None, limit: int = 50
    ) -> Call[DatasetVersionList]:
        query = {"cursor": cursor, "limit": limit}
        return Call("GET", path("datasets", name, "versions"), DatasetVersionList, query)

    @operation("datasets_get")
    def get(self, name: str, number: int | None = None) -> Call[DatasetVersionOut]:
        return Call(
            "GET", path("datasets", name, "versions", number or "latest"), DatasetVersionOut
        )

    @operation("datasets_rows")
    def rows(
        self, name: str, number: int | None = None, *, split: Split = "train", limit: int = 10
    ) -> Call[DatasetRows]:
        """The first rows of a split, at most 100."""
        where = path("datasets", name, "versions", number or "latest", "rows")
        return Call("GET", where, DatasetRows, {"split": split, "limit": limit})
