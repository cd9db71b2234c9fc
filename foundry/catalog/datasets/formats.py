"""Formats of files that become datasets: what readers, hints, help and documents know of each."""

from dataclasses import dataclass
from typing import Literal

Packing = Literal["gzip", "zstd"]


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One format.

    Attributes:
        suffix: of the names of such files, lower case.
        name: for a person.
        magic: the first bytes of every such file; empty: text has none.
        packing: of JSON lines; None: as they are. `-dc` makes its command unpack.
    """

    suffix: str
    name: str
    magic: bytes = b""
    packing: Packing | None = None


JSONL = FileFormat(".jsonl", "JSON lines")
JSONL_GZIP = FileFormat(".jsonl.gz", "gzip", b"\x1f\x8b", "gzip")
JSONL_ZSTD = FileFormat(".jsonl.zst", "zstd", b"\x28\xb5\x2f\xfd", "zstd")
PARQUET = FileFormat(".parquet", "Parquet", b"PAR1")
FORMATS = (JSONL, JSONL_GZIP, JSONL_ZSTD, PARQUET)
SUFFIXES = tuple(each.suffix for each in FORMATS)


def find_format(filename: str) -> FileFormat | None:
    """The format that a file's name promises; None: it promises none of ours."""
    lower = filename.lower()
    return next((each for each in FORMATS if lower.endswith(each.suffix)), None)


def detect_format(head: bytes) -> FileFormat | None:
    """The format that a file's first bytes show; None: text, or none of ours."""
    return next((each for each in FORMATS if each.magic and head.startswith(each.magic)), None)
