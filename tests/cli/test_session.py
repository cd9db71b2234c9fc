"""What commands share: the first rows of a list."""

import json

import pytest

from foundry.cli.main import run
from foundry.cli.output.console import FirstRows
from foundry.cli.session import choose_page_size, fetch_rows
from foundry.sdk import Page
from tests.cli.conftest import Server
from tests.sdk.answers import job


class Row(Page[int]):
    """Any model will do as a row."""


def row(number: int) -> Row:
    return Row(data=[number], next_cursor=None)


@pytest.mark.parametrize(
    ("limit", "size"), [(1, 2), (100, 101), (199, 200), (200, 200), (900, 200)]
)
def test_a_page_holds_one_row_more_than_is_shown(limit: int, size: int) -> None:
    assert choose_page_size(limit) == size


@pytest.mark.parametrize(("limit", "more"), [(1, True), (2, False), (3, False)])
def test_the_first_rows_tell_that_more_follow(limit: int, more: bool) -> None:
    page = Page[Row](data=[row(1), row(2)], next_cursor=None)
    rows = fetch_rows(page, limit)
    assert [found["data"] for found in rows] == [[1], [2]][:limit]
    assert isinstance(rows, FirstRows) == more


@pytest.mark.parametrize(("limit", "names"), [(1, "a"), (3, "abc"), (4, "abcd"), (5, "abcd")])
def test_rows_are_read_over_as_many_pages_as_they_need(
    server: type[Server], capsys: pytest.CaptureFixture[str], limit: int, names: str
) -> None:
    rows = [job("FAILED", name=name) for name in "abcd"]
    server.answers["/jobs"] = [
        (200, {"data": rows[:2], "next_cursor": "c2"}),
        (200, {"data": rows[2:], "next_cursor": None}),
    ]
    command = ["jobs", "list", "--state", "failed", "--limit", str(limit), "-o", "json"]
    assert run(command) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(names)
    first = f"state=FAILED&limit={limit + 1}"
    second = f"state=FAILED&cursor=c2&limit={limit + 1}"
    assert server.queries == ([first] if limit == 1 else [first, second])
