"""Files of rows, one row at a time."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import zstandard

from foundry.catalog.datasets.domain import RowError
from foundry.catalog.datasets.formats import PARQUET, FileFormat, find_format
from foundry.catalog.datasets.hints import explain_file
from foundry.errors import InvalidDataset

_MAX_LINE_BYTES = 8 * 2**20
_MAX_EXPANDED_BYTES = 8 * 2**30
_BATCH_ROWS = 512

Row = tuple[int, dict[str, object] | RowError]


def read(path: Path, filename: str) -> Iterator[Row]:
    """Rows numbered from 1, each an object or the reason why it is none.

    Raises:
        InvalidDataset: the format is unknown or the file is damaged as a whole.
    """
    if (problem := explain_file(path, filename)) is not None:
        raise InvalidDataset(problem, param="filename")
    form = find_format(filename)
    assert form is not None
    return _read_parquet(path) if form is PARQUET else _read_json_lines(path, form)


def _read_json_lines(path: Path, form: FileFormat) -> Iterator[Row]:
    try:
        with _open_unpacked(path, form) as file:
            yield from _read_lines(file)
    except (gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InvalidDataset("the compressed file is damaged: compress it again") from error


@contextmanager
def _open_unpacked(path: Path, form: FileFormat) -> Iterator[BinaryIO]:
    with path.open("rb") as raw:
        if form.packing == "gzip":
            with gzip.GzipFile(fileobj=raw) as plain:
                yield io.BufferedReader(plain)
        elif form.packing == "zstd":
            reader = zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(
                raw, read_across_frames=True
            )
            with reader:
                yield io.BufferedReader(reader)
        else:
            yield raw


def _read_lines(file: BinaryIO) -> Iterator[Row]:
    expanded = 0
    number = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        expanded += len(line)
        if expanded > _MAX_EXPANDED_BYTES:
            raise InvalidDataset("the file expands to more than 8 GiB: split it")
        if len(line) > _MAX_LINE_BYTES:
            yield number, RowError(number, "", "too_long", "the line exceeds 8 MiB")
            if not line.endswith(b"\n"):
                _skip_line(file)
            continue
        if line.strip():
            yield number, _parse_line(number, line.removeprefix(b"\xef\xbb\xbf"))


def _skip_line(file: BinaryIO) -> None:
    while (rest := file.readline(_MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


class _NonFinite(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NonFinite(name)


def _parse_line(number: int, line: bytes) -> dict[str, object] | RowError:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return RowError(number, "", "bad_utf8", f"byte {error.start} of the line is not UTF-8")
    except _NonFinite as error:
        return RowError(number, "", "non_finite", f"{error} is not a JSON number")
    except json.JSONDecodeError as error:
        return RowError(number, "", "bad_json", f"not valid JSON from column {error.colno} on")
    except (RecursionError, ValueError):
        return RowError(number, "", "bad_json", "nested too deeply, or a number is too long")
    if not isinstance(row, dict):
        return RowError(number, "", "wrong_type", "a row must be a JSON object")
    return row


def _read_parquet(path: Path) -> Iterator[Row]:
    # Imported late: pyarrow costs memory and start-up time that JSONL users need not pay.
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in _read_batch(batch, number + 1):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidDataset("not a readable Parquet file: write it again") from error


def _read_batch(batch: Any, first: int) -> Iterator[dict[str, object] | RowError]:
    """Rows `first` and up. One with a value that Python cannot hold is an error of its own."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        for offset in range(batch.num_rows):
            yield _read_single_row(batch.slice(offset, 1), first + offset)
        return
    for row in rows:
        yield drop_nulls(row)


def _read_single_row(batch: Any, number: int) -> dict[str, object] | RowError:
    row: dict[str, object] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column.to_pylist()[0]
        except UnicodeDecodeError:
            return RowError(number, name, "bad_utf8", "a string of it is not UTF-8")
        except (ValueError, OverflowError):
            return RowError(number, name, "wrong_type", "a value of it is no JSON value")
    return drop_nulls(row)


def drop_nulls(row: dict[str, object]) -> dict[str, object]:
    """Parquet spells an absent field of a struct as null."""
    return {key: _strip_nulls(value) for key, value in row.items() if value is not None}


def _strip_nulls(value: object) -> object:
    if isinstance(value, dict):
        return drop_nulls(value)
    if isinstance(value, list):
        return [_strip_nulls(item) for item in value]
    return value
