"""The architectures that engines serve."""

from functools import cache
from pathlib import Path

_LIST = Path(__file__).with_name("architectures.txt")


@cache
def list_served_architectures() -> frozenset[str]:
    lines = _LIST.read_text().splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def is_served(architecture: str) -> bool:
    return architecture in list_served_architectures()
