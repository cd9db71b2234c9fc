"""Datasets and their versions."""

import os
from collections.abc import Callable
from pathlib import Path
from types import NoneType

from foundry.catalog.datasets.hints import explain_directory, explain_file, explain_first_row
from foundry.catalog.datasets.schemas import (
    LATEST,
    DatasetAdded,
    DatasetOut,
    DatasetVersionOut,
    Reference,
    Split,
)
from foundry.errors import InvalidDataset, InvalidRequest
from foundry.sdk._references import join_reference, name_version_error
from foundry.sdk._transport import Call, Query, Resource, S_co, operation, pages, path
from foundry.sdk.paging import Listed, Page

# A conversation, or a prompt with its completion.
Row = dict[str, object]


def _version_path(name: str, number: int | None, *more: str) -> str:
    reference = Reference.parse(join_reference(name, number))
    return path("datasets", reference.name, "versions", reference.version or LATEST, *more)


class Datasets(Resource[S_co]):
    """Datasets and their versions.

    A version is written `name@number`, like `support@1`; a name alone, or `name@latest`, means the
    newest one, except where something is removed. The number, which counts from 1, may also be
    given apart.
    """

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
        on_sent: Callable[[int], None] | None = None,
    ) -> Call[DatasetAdded]:
        """Upload a file, or its bytes, as a version; the same bytes are the same version.

        Args:
            filename: its suffix names the format (.jsonl, .jsonl.gz, .jsonl.zst, .parquet);
                needed with bytes.
            eval_fraction: expected share of prompts held out, 0 <= x < 1; 0: none.
            max_bad_fraction: share of invalid rows that may be dropped, 0 <= x < 1.
            on_sent: told how many bytes of the file have left.
        Raises InvalidDataset: names the rows and fields that are wrong, or says what to do with a
        file of another format, before it is sent.
        """
        body = source if isinstance(source, bytes) else Path(source)
        if isinstance(body, Path):
            _check_file(body, filename, strict=max_bad_fraction == 0)
        elif filename is None:
            raise InvalidRequest("bytes need a filename, whose suffix names their format")
        query: Query = {
            "filename": filename or (body.name if isinstance(body, Path) else None),
            "eval_fraction": eval_fraction,
            "seed": seed,
            "max_bad_fraction": max_bad_fraction,
        }
        where = path("datasets", name, "versions")
        return Call("POST", where, DatasetAdded, query, body, slow=True, on_sent=on_sent)

    @pages("datasets_list")
    def list(self, *, cursor: str | None = None, limit: int = 50) -> Call[Page[DatasetOut]]:
        """Datasets by name, each with its newest version, `limit` to a page."""
        return Call("GET", path("datasets"), Page[DatasetOut], {"cursor": cursor, "limit": limit})

    @pages("datasets_versions")
    def versions(
        self, name: str, *, cursor: str | None = None, limit: int = 50
    ) -> Call[Page[DatasetVersionOut]]:
        """Versions, newest first, without the deleted ones, `limit` to a page."""
        query = {"cursor": cursor, "limit": limit}
        return Call("GET", path("datasets", name, "versions"), Page[DatasetVersionOut], query)

    @operation("datasets_get")
    def get(self, name: str, number: int | None = None) -> Call[DatasetVersionOut]:
        """One version, like `support@1`. Of a deleted one its record is left, under its number."""
        return Call("GET", _version_path(name, number), DatasetVersionOut)

    @operation("datasets_rows")
    def rows(
        self, name: str, number: int | None = None, *, split: Split = "train", limit: int = 10
    ) -> Call[Listed[Row]]:
        """The first rows of a split, at most 100."""
        where = _version_path(name, number, "rows")
        return Call("GET", where, Listed[Row], {"split": split, "limit": limit})

    @operation("datasets_delete_version")
    def delete_version(
        self,
        name: str,
        number: int | None = None,
        *,
        force: bool = False,
        reason: str | None = None,
    ) -> Call[None]:
        """Delete one version, like `support@1`, for good; its record stays, for lineage.

        Args:
            force: also if a model was trained on it.
        Raises VersionInUse: a job reads it, or a model was trained on it.
        """
        reference = Reference.parse(join_reference(name, number))
        if reference.version is None:
            raise name_version_error(reference.name, "1")
        where = path("datasets", reference.name, "versions", reference.version)
        return Call("DELETE", where, NoneType, {"force": force, "reason": reason})

    @operation("datasets_delete")
    def delete(self, name: str, *, force: bool = False, reason: str | None = None) -> Call[None]:
        """Delete every version of a dataset; see `delete_version`."""
        where = path("datasets", name)
        return Call("DELETE", where, NoneType, {"force": force, "reason": reason})


def _check_file(file: Path, filename: str | None, *, strict: bool) -> None:
    """Refuse what need not be sent.

    Args:
        filename: replaces the file's own; advice names the file as it was given.
        strict: no row may be invalid, so the first one decides.
    """
    # What cannot be looked at is told when it is opened.
    if os.path.isdir(file):
        raise InvalidDataset(explain_directory(file))
    if not os.path.isfile(file) or filename is not None:
        return
    problem = explain_file(file, str(file))
    if problem is None and strict and (said := explain_first_row(file, str(file))):
        problem = f"{file} has rows of another format. {said[:1].upper()}{said[1:]}"
    if problem is not None:
        raise InvalidDataset(problem, param="filename")
