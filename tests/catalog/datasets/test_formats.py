"""What names and first bytes say of a file's format."""

import pytest

from foundry.catalog.datasets.formats import (
    FORMATS,
    JSONL,
    JSONL_GZIP,
    PARQUET,
    FileFormat,
    detect_format,
    find_format,
)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl", JSONL),
        ("A.JSONL.GZ", JSONL_GZIP),
        ("a.parquet", PARQUET),
        ("a.gz", None),
        ("jsonl", None),
    ],
)
def test_a_name_promises_a_format(name: str, form: FileFormat | None) -> None:
    assert find_format(name) is form


def test_first_bytes_show_packed_formats_and_not_text() -> None:
    assert [detect_format(form.magic + b"x") for form in FORMATS] == [None, *FORMATS[1:]]
