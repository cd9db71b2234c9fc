"""Lists: iterating one yields its items, and those of the pages behind it as they are reached.

for job in foundry.jobs.list(): ...            # Foundry
async for job in foundry.jobs.list(): ...      # AsyncFoundry
page = await foundry.jobs.list(limit=20)       # one page: page.data, page.next_cursor
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, PrivateAttr

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Item = TypeVar("Item")


class Listed(BaseModel, Generic[T]):
    """A list that one answer holds whole."""

    data: list[T]

    # pydantic would yield pairs of a field's name and its value.
    def __iter__(self) -> Iterator[T]:  # type: ignore[override]
        return iter(self.data)


class Page(Listed[T], Generic[T]):
    """One page of a list.

    Attributes:
        data: the items of this page.
        next_cursor: names the page behind it; None: this is the last one.
    """

    next_cursor: str | None
    _fetch: Callable[[str], Any] | None = PrivateAttr(default=None)
    _is_async: bool = PrivateAttr(default=False)

    def continue_with(self, fetch: Callable[[str], Any], *, is_async: bool) -> None:
        """Let iteration go on with the page that `fetch` returns for a cursor."""
        self._fetch, self._is_async = fetch, is_async

    def __iter__(self) -> Iterator[T]:  # type: ignore[override]
        if self._is_async:
            raise TypeError("pages of an AsyncFoundry are iterated with `async for`")
        page = self
        while True:
            yield from page.data
            if page.next_cursor is None or page._fetch is None:
                return
            page = page._fetch(page.next_cursor)

    async def __aiter__(self) -> AsyncIterator[T]:
        if not self._is_async:
            raise TypeError("pages of a Foundry are iterated with `for`")
        page = self
        while True:
            for item in page.data:
                yield item
            if page.next_cursor is None or page._fetch is None:
                return
            page = await page._fetch(page.next_cursor)


class PendingPage(Generic[T_co]):
    """A page that was asked for: await it, or iterate over its items with `async for`."""

    def __init__(self, send: Callable[[], Awaitable[T_co]]) -> None:
        self._send = send

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._send().__await__()

    async def __aiter__(self: "PendingPage[Page[Item]]") -> AsyncIterator[Item]:
        async for item in await self:
            yield item
