"""Shards: canonical JSON lines, zstd."""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import zstandard

# One thread and a fixed level: the same rows give the same bytes on every machine.
_LEVEL = 6


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces, after RFC 8785; UTF-8."""
    return _encode(value, sort_keys=True)


def encode_row(value: object) -> bytes:
    """A row as a line of a shard: like `canonical`, but with the keys as they come.

    A template prints the parameters of a tool and the arguments of a call in their order, and what
    is trained must be what was written.
    """
    return _encode(value, sort_keys=False)


def _encode(value: object, *, sort_keys: bool) -> bytes:
    text = json.dumps(
        value, ensure_ascii=False, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False
    )
    # Lone surrogates are valid in JSON escapes and impossible in UTF-8.
    return text.encode("utf-8", errors="replace")


def normalise_strings(value: object) -> object:
    """Every string in NFC: what looks the same compares the same."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, dict):
        return {
            unicodedata.normalize("NFC", str(k)): normalise_strings(v) for k, v in value.items()
        }
    if isinstance(value, list):
        return [normalise_strings(item) for item in value]
    return value


class ShardWriter:
    """Writes rows to one shard."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._stream = zstandard.ZstdCompressor(level=_LEVEL, threads=0).stream_writer(
            self._file, closefd=True
        )
        self.rows = 0

    def write(self, line: bytes) -> None:
        self._stream.write(line + b"\n")
        self.rows += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()  # type: ignore[no-untyped-call]


def read_rows(path: Path) -> Iterator[dict[str, object]]:
    """Rows of a shard, one at a time."""
    with (
        path.open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw) as plain,
    ):
        rest = b""
        while chunk := plain.read(1 << 20):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
