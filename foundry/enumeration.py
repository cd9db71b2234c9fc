"""Lists in sentences: the first items, and how many more there are."""

from collections.abc import Iterable


def name_first(
    items: Iterable[str], most: int, *, between: str = ", ", total: int | None = None
) -> str:
    """Join the first items: `a, b and 3 more`, or `a; b; and 3 more`.

    Args:
        most: how many are named, at least 1.
        between: what separates them.
        total: how many there are; None: as many as `items`.
    """
    known = list(items)
    named = known[:most]
    more = (len(known) if total is None else total) - len(named)
    if more <= 0:
        return between.join(named)
    tail = " " if between == ", " else between
    return f"{between.join(named)}{tail}and {more} more"
