"""How people refer to a row: by its name, or by the beginning of its id."""

import re
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, or_

# Below, an id's beginning is too like a name; and 32 bits of a UUIDv7 are 65 s of its time.
MIN_ID_CHARS = 8
_ID_BEGINNING = re.compile(rf"[0-9a-f-]{{{MIN_ID_CHARS},36}}")
_HEX_DIGITS = 32


def match_reference(
    reference: str, row_id: ColumnElement[UUID] | Any, name: ColumnElement[str] | Any
) -> ColumnElement[bool]:
    """The condition that a row has this name, or an id that begins so.

    The id is compared as a range, which its index answers.
    """
    span = parse_id_beginning(reference)
    named: ColumnElement[bool] = name == reference
    return named if span is None else or_(named, row_id.between(*span))


def parse_id_beginning(text: str) -> tuple[UUID, UUID] | None:
    """The lowest and the highest UUID that begin so; None: none does.

    Hyphens may be left out.
    """
    lowered = text.lower()
    if not _ID_BEGINNING.fullmatch(lowered):
        return None
    digits = lowered.replace("-", "")
    if not MIN_ID_CHARS <= len(digits) <= _HEX_DIGITS:
        return None
    return UUID(digits.ljust(_HEX_DIGITS, "0")), UUID(digits.ljust(_HEX_DIGITS, "f"))
