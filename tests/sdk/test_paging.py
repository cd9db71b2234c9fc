"""Iterating a list yields its items, over all pages, in both clients."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from foundry.config import Settings
from foundry.sdk import AsyncFoundry, Foundry, Listed, Page
from tests.sdk.answers import AT, JOB_ID, client, job

PAGES = {None: (["a", "b"], "c2"), "c2": ([], "c3"), "c3": (["c"], None)}


class Server:
    """Answers a list of jobs in three pages, the second of them empty."""

    def __init__(self) -> None:
        self.queries: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = dict(request.url.params)
        self.queries.append(query)
        names, behind = PAGES[query.get("cursor")]
        rows = [job("FAILED", name=name) for name in names]
        return httpx.Response(200, json={"data": rows, "next_cursor": behind})


def open_async(server: Server, home: Path) -> AsyncFoundry:
    return AsyncFoundry(
        "http://foundry.test",
        "k",
        settings=Settings(home=home),
        transport=httpx.MockTransport(server),
    )


def test_a_list_yields_its_items_over_all_pages(tmp_path: Path) -> None:
    server = Server()
    with client(server, tmp_path) as foundry:
        assert [row.name for row in foundry.jobs.list(state="FAILED", limit=2)] == ["a", "b", "c"]
    first = {"state": "FAILED", "limit": "2"}
    assert server.queries == [first, {**first, "cursor": "c2"}, {**first, "cursor": "c3"}]


def test_a_page_is_fetched_when_it_is_reached(tmp_path: Path) -> None:
    server = Server()
    with client(server, tmp_path) as foundry:
        page = foundry.jobs.list()
        rows = iter(page)
        assert [next(rows).name, next(rows).name] == ["a", "b"]
        assert len(server.queries) == 1
        assert next(rows).name == "c"
        assert ([row.name for row in page.data], page.next_cursor) == (["a", "b"], "c2")
        # From the first page on again.
        assert [row.name for row in page] == ["a", "b", "c"]


async def test_the_async_client_iterates_and_awaits(tmp_path: Path) -> None:
    server = Server()
    async with open_async(server, tmp_path) as foundry:
        assert [row.name async for row in foundry.jobs.list()] == ["a", "b", "c"]
        page = await foundry.jobs.list()
        assert [row.name for row in page.data] == ["a", "b"]
        assert [row.name async for row in page] == ["a", "b", "c"]
        with pytest.raises(TypeError, match="async for"):
            list(page)


async def test_a_page_of_the_sync_client_is_not_async(tmp_path: Path) -> None:
    with client(Server(), tmp_path) as foundry:
        page = foundry.jobs.list()
    with pytest.raises(TypeError, match="with `for`"):
        async for _ in page:
            pass


def test_a_list_without_pages_yields_its_items(tmp_path: Path) -> None:
    row = {"step": 1, "name": "loss", "value": 0.5, "at": AT}
    with client(lambda request: httpx.Response(200, json={"data": [row]}), tmp_path) as foundry:
        assert [metric.value for metric in foundry.jobs.metrics(JOB_ID)] == [0.5]


def test_a_page_is_dumped_as_it_came() -> None:
    document: dict[str, Any] = {"data": [1, 2], "next_cursor": None}
    assert Page[int].model_validate(document).model_dump() == document
    assert list(Page[int].model_validate(document)) == [1, 2]
    assert list(Listed[int](data=[3])) == [3]


def test_the_package_carries_its_types() -> None:
    import foundry

    assert (Path(foundry.__file__).parent / "py.typed").is_file()
    assert Foundry.__doc__
