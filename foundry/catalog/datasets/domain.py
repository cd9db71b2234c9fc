"""What a dataset is made of; pure."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from foundry.catalog.datasets.formats import JSONL_ZSTD
from foundry.errors import InvalidRequest

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,127}$"
MAX_VERSION = 2_147_483_647
LATEST = "latest"
Kind = Literal["chat", "prompt_completion"]
Split = Literal["train", "eval"]
TRAIN_FILE = f"train{JSONL_ZSTD.suffix}"
EVAL_FILE = f"eval{JSONL_ZSTD.suffix}"

_NAME = re.compile(NAME_PATTERN.removesuffix("$"))
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")


@dataclass(frozen=True, slots=True)
class AddOptions:
    """How a file becomes a version.

    Attributes:
        filename: decides the format by its suffix, see `formats`.
        eval_fraction: expected share of prompts held out, 0 <= x < 1; 0: none, so that a model is
            not measured on rows that it has not seen.
        seed: of the split; the same seed splits the same prompts the same way for ever.
        max_bad_fraction: share of invalid rows that may be dropped, 0 <= x < 1.
    """

    filename: str = "data.jsonl"
    eval_fraction: float = 0.1
    seed: int = 0
    max_bad_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eval_fraction < 1:
            raise InvalidRequest(
                "eval_fraction must be at least 0 (nothing is held out) and below 1",
                param="eval_fraction",
            )
        if not 0 <= self.max_bad_fraction < 1:
            raise InvalidRequest(
                "max_bad_fraction must be at least 0 and below 1", param="max_bad_fraction"
            )


@dataclass(frozen=True, slots=True)
class RowError:
    """One reason why a row is refused.

    Attributes:
        row: line number in a JSONL file, row number in a Parquet file; from 1.
        path: JSON path inside the row; empty for the row itself.
    """

    row: int
    path: str
    code: str
    message: str

    def __str__(self) -> str:
        where = f"row {self.row}: {self.path}: " if self.path else f"row {self.row}: "
        return f"{where}{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Reference:
    """`name` or `name@latest` (its highest version: `version` is None), or `name@N`."""

    name: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a dataset reference such as `support@3`. Raises InvalidRequest."""
        name, separator, selector = text.partition("@")
        if is_valid_name(name):
            if not separator or selector == LATEST:
                return cls(name)
            if _NUMBER.fullmatch(selector) and int(selector) <= MAX_VERSION:
                return cls(name, int(selector))
        raise InvalidRequest(
            f"{text[:160]!r} is not a dataset reference: use name, name@1 or name@latest",
            param="dataset",
        )

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def is_valid_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    if not is_valid_name(name):
        raise InvalidRequest(
            f"{name[:160]!r} is not a dataset name: lower-case letters, digits, ., _ and -, "
            "at most 128",
            param="name",
        )
