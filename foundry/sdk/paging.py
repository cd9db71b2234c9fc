"""Every row of a list, whatever its number of pages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Page(Protocol[T_co]):
    @property
    def data(self) -> Sequence[T_co]: ...

    @property
    def next_cursor(self) -> str | None: ...


def each(fetch: Callable[[str | None], Page[T_co]]) -> Iterator[T_co]:
    """`each(lambda cursor: client.jobs.list(cursor=cursor))`: pages are fetched when reached."""
    cursor: str | None = None
    while True:
        page = fetch(cursor)
        yield from page.data
        if (cursor := page.next_cursor) is None:
            return


async def each_async(fetch: Callable[[str | None], Awaitable[Page[T_co]]]) -> AsyncIterator[T_co]:
    """As `each`, of an `AsyncFoundry`."""
    cursor: str | None = None
    while True:
        page = await fetch(cursor)
        for row in page.data:
            yield row
        if (cursor := page.next_cursor) is None:
            return
