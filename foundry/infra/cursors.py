"""Keyset cursors: the place of the last row, not a count of rows, so deep pages cost the same."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from foundry.errors import InvalidRequest

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
_MAX_CHARS = 1024

Key = str | int | datetime | UUID
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page. `next_cursor` is None on the last one."""

    data: list[T]
    next_cursor: str | None


def page_of(
    rows: Sequence[T], limit: int, keys_of: Callable[[T], tuple[Key, ...]], filters: str = ""
) -> Page[T]:
    """Cut `limit` + 1 fetched rows to a page; the surplus row proves that there is another."""
    if len(rows) <= limit:
        return Page(list(rows), None)
    kept = list(rows[:limit])
    return Page(kept, encode(keys_of(kept[-1]), filters))


def encode(keys: tuple[Key, ...], filters: str = "") -> str:
    plain = [str(k) if isinstance(k, UUID) else _text(k) for k in keys]
    text = json.dumps([_digest(filters), *plain], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def decode(
    cursor: str | None, kinds: tuple[type[Key], ...], filters: str = ""
) -> tuple[Key, ...] | None:
    """The sort keys after which the page starts; None without a cursor.

    Raises:
        InvalidRequest: it is not a cursor of this list, or the filters have changed since.
    """
    if cursor is None:
        return None
    try:
        padded = cursor[:_MAX_CHARS] + "=" * (-len(cursor[:_MAX_CHARS]) % 4)
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        digest, *keys = parts
        values = tuple(_parse(kind, key) for kind, key in zip(kinds, keys, strict=True))
    except (binascii.Error, ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(
            "cursor: not a cursor of this list; start without one", param="cursor"
        ) from error
    if digest != _digest(filters):
        raise InvalidRequest(
            "cursor: the filters have changed since; start without a cursor", param="cursor"
        )
    return values


def _text(key: Key) -> str | int:
    if isinstance(key, datetime):
        return key.isoformat()
    return key if isinstance(key, int) else str(key)


def _parse(kind: type[Key], value: object) -> Key:
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < 2**63:
            raise ValueError(value)
        return value
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(value)
    if kind is datetime:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError(value)
        return moment
    return UUID(value) if kind is UUID else value


def _digest(filters: str) -> str:
    return hashlib.sha256(filters.encode()).hexdigest()[:16]
