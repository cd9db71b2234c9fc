"""The safetensors header, checked against the file before any library maps it into memory."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from foundry.errors import InvalidArtifact

_MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
# Every pointer file of Git LFS begins so, by its specification.
_POINTER_START = b"version "
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
_BF16_EXPONENT = 0x7F80
# Mask and the least masked value that is no finite number (OCP 8-bit formats): E4M3 has NaN only.
_F8_NON_FINITE = {"F8_E4M3": (0x7F, 0x7F), "F8_E5M2": (0x7F, 0x7C), "F8_E8M0": (0xFF, 0xFF)}
# A multiple of every element's size.
_PIECE_BYTES = 16 * 2**20
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies. `begin` and `end` count from the first byte of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path, name: str | None = None) -> dict[str, Tensor]:
    """Tensors by name.

    Args:
        name: for messages; a file that a link leads to is called otherwise.

    Raises:
        InvalidArtifact: header and file contradict each other; the message says where.
    """
    shown = name or path.name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            raw = _read_raw_header(shown, file, size)
    except OSError as error:
        raise InvalidArtifact(f"{shown} cannot be read", path=shown) from error
    header = _parse(shown, raw)
    header.pop(_METADATA, None)
    start = _LENGTH_BYTES + len(raw)
    tensors = {name: _parse_tensor(shown, name, entry, start) for name, entry in header.items()}
    _check_tiling(shown, tensors, start, size)
    return tensors


def _read_raw_header(shown: str, file: BinaryIO, size: int) -> bytes:
    prefix = file.read(_LENGTH_BYTES)
    if len(prefix) < _LENGTH_BYTES:
        raise _describe_damage(shown, f"it has only {size} bytes: it is not a safetensors file")
    if prefix == _POINTER_START:
        raise InvalidArtifact(
            f"{shown} is a pointer of Git LFS, not the file: run `git lfs pull` there", path=shown
        )
    (length,) = struct.unpack("<Q", prefix)
    if length > min(_MAX_HEADER_BYTES, size - _LENGTH_BYTES):
        raise _describe_damage(shown, f"its header claims {length} bytes, the file has {size}")
    return file.read(int(length))


def first_non_finite(path: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a floating-point tensor with an infinity or NaN.

    Reads in pieces of 16 MiB: a tensor may be larger than memory.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for name, tensor in tensors.items():
        for begin in range(tensor.begin, tensor.end, _PIECE_BYTES):
            if not _is_finite(data[begin : min(begin + _PIECE_BYTES, tensor.end)], tensor.dtype):
                return name
    return None


def _is_finite(raw: NDArray[np.uint8], dtype: str) -> bool:
    if dtype in _FLOATS:
        return bool(np.isfinite(raw.view(_FLOATS[dtype])).all())
    if dtype == "BF16":
        return bool(np.all((raw.view("<u2") & _BF16_EXPONENT) != _BF16_EXPONENT))
    if dtype in _F8_NON_FINITE:
        mask, pattern = _F8_NON_FINITE[dtype]
        return bool(np.all((raw & mask) < pattern))
    return True


def _parse(shown: str, raw: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    try:
        header = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _describe_damage(shown, "its header is not valid JSON") from error
    if not isinstance(header, dict):
        raise _describe_damage(shown, "its header is not a JSON object")
    return header


def _parse_tensor(shown: str, name: str, entry: object, start: int) -> Tensor:
    try:
        fields = entry if isinstance(entry, dict) else {}
        dtype, shape = fields["dtype"], fields["shape"]
        begin, end = fields["data_offsets"]
        bits = _BITS[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise _describe_damage(
            shown, f"tensor {name[:200]} lacks a known dtype, shape or offsets"
        ) from error
    numbers = [begin, end, *shape] if isinstance(shape, list) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise _describe_damage(
            shown, f"tensor {name[:200]} has a shape or offset that is no natural number"
        )
    if (end - begin) * 8 != math.prod(shape) * bits:
        raise _describe_damage(
            shown,
            f"tensor {name[:200]} holds {end - begin} bytes, its shape {shape} and dtype {dtype} "
            f"need {math.prod(shape) * bits // 8}",
        )
    return Tensor(dtype, tuple(shape), start + begin, start + end)


def _check_tiling(shown: str, tensors: dict[str, Tensor], start: int, size: int) -> None:
    """The tensors cover the data exactly: no gap hides bytes, none overlaps."""
    place = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != place:
            raise _describe_damage(
                shown, f"tensor {name[:200]} does not start where the one before it ends"
            )
        place = tensor.end
    if place != size:
        raise _describe_damage(shown, f"its header describes {place} bytes, the file has {size}")


def _describe_damage(shown: str, reason: str) -> InvalidArtifact:
    return InvalidArtifact(f"{shown} is damaged: {reason}; create or download it again", path=shown)
