"""How one value of an answer is written: shortened for eyes on a terminal, whole for programs.

    value            on a terminal, in a table   in a pipe, and in JSON
    UUID             its first 13 characters     whole
    sha256           its first 12 characters     whole
    moment           3 min ago                   2026-11-27T17:43:02Z
    size in bytes    269.1 MB                    269060552

A record has a line of its own for each value, so there they are whole on a terminal too.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum

from rich.filesize import decimal

from foundry.cli.output.terminal import printable

# 48 bits of a UUIDv7 are its milliseconds: two ids of one millisecond are as good as never met.
SHORT_ID_CHARS = 13
_SHORT_DIGEST_CHARS = 12
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")
# From there on a date says more than a number of days.
_DAYS_TOLD = 30
_STEPS = ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h"))


def write_cell(value: object, name: str, *, now: datetime | None = None) -> str:
    """A value as a table's cell.

    Args:
        name: of the column; `…_bytes` and `size` are sizes.
        now: on a terminal, what moments are told from; None: everything whole, on one line.
    """
    text = _write_value(value)
    if now is None:
        return escape_breaks(text)
    if _ID.fullmatch(text):
        return text[:SHORT_ID_CHARS]
    if _DIGEST.fullmatch(text):
        return text[:_SHORT_DIGEST_CHARS]
    if _is_size(value, name):
        return decimal(int(text))
    moment = parse_moment(value)
    return text if moment is None else tell_moment(moment, now)


def write_field(value: object, name: str, *, now: datetime | None = None) -> str:
    """A value on the line that it has in a record: whole, and a moment also from now."""
    text = _write_value(value)
    if now is None:
        return escape_breaks(text)
    if _is_size(value, name) and int(text) >= 1000:
        return f"{text} ({decimal(int(text))})"
    moment = parse_moment(value)
    if moment is None:
        return text
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({tell_moment(moment, now)})"


def is_unbreakable(value: object) -> bool:
    """Whether a person copies or compares the text as a whole: ids, digests, moments, numbers."""
    if isinstance(value, list | tuple | Mapping):
        return False
    return not isinstance(value, str) or " " not in value


def parse_moment(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return datetime.fromisoformat(value).astimezone(UTC)
    return None


def tell_moment(moment: datetime, now: datetime) -> str:
    """How far it is from now: `12 s ago`, `in 3 h`; a date where that is far."""
    seconds = round((now - moment).total_seconds())
    distance = abs(seconds)
    if distance >= _DAYS_TOLD * 86400 and seconds > 0:
        return f"{moment:%Y-%m-%d}"
    for limit, unit_s, unit in _STEPS:
        if distance < limit:
            told = f"{distance // unit_s} {unit}"
            break
    else:
        told = f"{distance // 86400} days"
    return f"{told} ago" if seconds >= 0 else f"in {told}"


def escape_breaks(text: str) -> str:
    """Write a text on one line, for programs that read line by line."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def _is_size(value: object, name: str) -> bool:
    sized = name == "size" or name.endswith("_bytes")
    return sized and isinstance(value, int) and not isinstance(value, bool)


def _write_value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_write_value(item)}" for name, item in value.items()) or "-"
    if isinstance(value, Sequence) and not isinstance(value, str):
        between = "\n" if any(isinstance(item, Mapping) for item in value) else ", "
        return between.join(map(_write_value, value)) or "-"
    # Names and prompts come from others, and a terminal obeys what it is shown.
    return printable(str(value))
