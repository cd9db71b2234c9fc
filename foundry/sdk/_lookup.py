"""What a person has at hand for a job, an endpoint or a recommendation → one request for the row.

A whole id is asked for as it is. Of a name, and of the beginning of an id, the server lists the
rows that match (`ref=`), newest first, and the row is chosen here: the newest of that name, else
the only one whose id begins so. `last` is the newest of all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from uuid import UUID

from foundry.errors import Conflict, NotFound
from foundry.sdk._transport import Call, Query, path

if TYPE_CHECKING:
    # Evaluated, a page of any row has no schema.
    from foundry.sdk.paging import Page


class _Row(Protocol):
    @property
    def id(self) -> UUID: ...


Row = TypeVar("Row", bound=_Row)

LAST = "last"
# Too short for the server, which would look for a name only.
_SHORT_ID = re.compile(r"[0-9a-f]{2,7}")
# So many of an ambiguous beginning are named.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Kind(Generic[Row]):
    """One kind of row that people refer to.

    Attributes:
        noun: for errors.
        route: of the list.
        page: what the list answers with.
        row: what is found.
        name_of: what a row is called; several may be called alike.
        listing: the command that shows them all.
        none_yet: the error where `last` is none; None: `last` is a name like any other.
    """

    noun: str
    route: tuple[str, ...]
    page: type[Page[Row]]
    row: type[Row]
    name_of: Callable[[Row], str | None]
    listing: str
    none_yet: str | None = None


def build_lookup(kind: Kind[Row], reference: UUID | str, query: Query | None = None) -> Call[Row]:
    """The request for the row that is meant.

    Args:
        query: goes with a request for a whole id.
    Raises NotFound, once answered: nothing is called so, nor begins so.
    Raises Conflict, once answered: several ids begin so.
    """
    if (row_id := parse_id(reference)) is not None:
        return Call("GET", path(*kind.route, row_id), kind.row, query or {})
    text = str(reference)
    if text == LAST and kind.none_yet is not None:
        listed: Call[Page[Row]] = Call("GET", path(*kind.route), kind.page, {"limit": 1})
        return listed.choosing(lambda page: _choose_newest(kind, page.data))
    listed = Call("GET", path(*kind.route), kind.page, {"ref": text, "limit": _NAMED + 1})
    return listed.choosing(lambda page: _choose_row(kind, page.data, text))


def parse_id(reference: UUID | str) -> UUID | None:
    """The whole id that a reference is; None: it is a name, or the beginning of an id."""
    if isinstance(reference, UUID):
        return reference
    try:
        return UUID(reference)
    except ValueError:
        return None


def _choose_newest(kind: Kind[Row], rows: list[Row]) -> Row:
    if not rows:
        raise NotFound(str(kind.none_yet))
    return rows[0]


def _choose_row(kind: Kind[Row], rows: list[Row], text: str) -> Row:
    for row in rows:
        if kind.name_of(row) == text:
            return row
    if len(rows) > 1:
        ids = ", ".join(str(row.id) for row in rows[:_NAMED])
        raise Conflict(f"several ids begin with {text}: give more of it, for example {ids}")
    if rows:
        return rows[0]
    hint = "; the beginning of an id takes 8 characters" if _SHORT_ID.fullmatch(text) else ""
    raise NotFound(f"there is no {kind.noun} {text}: `{kind.listing}` shows yours{hint}")
