"""A row by what is at hand: an id, its beginning, a name, `last`; alike from both clients."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from foundry.config import Settings
from foundry.errors import Conflict, NotFound
from foundry.sdk import AsyncFoundry
from tests.sdk.answers import ENDPOINT_ID, JOB_ID, Answer, client, endpoint, job

OTHER_ID = JOB_ID[:-1] + "9"


def look(home: Path, answer: Answer, method: str, reference: str) -> list[Any]:
    """What both clients find."""
    resource, name = method.split(".")

    async def ask() -> Any:
        transport = httpx.MockTransport(answer)
        async with AsyncFoundry(
            "http://foundry.test", "fk", settings=Settings(home=home), transport=transport
        ) as foundry:
            return await getattr(getattr(foundry, resource), name)(reference)

    with client(answer, home) as foundry:
        found = getattr(getattr(foundry, resource), name)(reference)
    return [found, asyncio.run(ask())]


def listing(seen: list[str], *rows: dict[str, object]) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode().removeprefix("/api"))
        return httpx.Response(200, json={"data": list(rows), "next_cursor": None})

    return answer


@pytest.mark.parametrize(
    ("reference", "asked", "found"),
    [
        ("last", "/jobs?limit=1", OTHER_ID),
        ("support-bot", "/jobs?ref=support-bot&limit=6", OTHER_ID),
    ],
)
def test_of_several_jobs_the_newest_is_meant(
    tmp_path: Path, reference: str, asked: str, found: str
) -> None:
    seen: list[str] = []
    answer = listing(seen, job("RUNNING", id=OTHER_ID), job("FAILED"))
    assert [str(row.id) for row in look(tmp_path, answer, "jobs.get", reference)] == [found] * 2
    assert seen == [asked] * 2


def test_the_beginning_of_an_id_is_enough_where_one_begins_so(tmp_path: Path) -> None:
    seen: list[str] = []
    answer = listing(seen, job("RUNNING"))
    assert [str(r.id) for r in look(tmp_path, answer, "jobs.get", JOB_ID[:8])] == [JOB_ID] * 2
    assert seen == [f"/jobs?ref={JOB_ID[:8]}&limit=6"] * 2


@pytest.mark.parametrize(
    ("method", "reference", "asked"),
    [
        ("endpoints.get", "smol", "/endpoints?ref=smol&limit=6"),
        # An endpoint may be called so, and none is the newest.
        ("endpoints.get", "last", "/endpoints?ref=last&limit=6"),
    ],
)
def test_an_endpoint_by_its_name(tmp_path: Path, method: str, reference: str, asked: str) -> None:
    seen: list[str] = []
    answer = listing(seen, endpoint("RUNNING", name=reference))
    assert [str(row.id) for row in look(tmp_path, answer, method, reference)] == [ENDPOINT_ID] * 2
    assert seen == [asked] * 2


@pytest.mark.parametrize(
    ("method", "reference", "rows", "error", "message"),
    [
        ("jobs.get", "last", [], NotFound, "there are no jobs yet: foundry train sft --help"),
        (
            "jobs.get",
            "nothing",
            [],
            NotFound,
            "there is no job nothing: `foundry jobs list` shows yours",
        ),
        (
            "endpoints.get",
            "0198f3",
            [],
            NotFound,
            "there is no endpoint 0198f3: `foundry endpoints list` shows yours; the beginning of "
            "an id takes 8 characters",
        ),
        (
            "jobs.get",
            JOB_ID[:8],
            [job("RUNNING"), job("FAILED", id=OTHER_ID)],
            Conflict,
            f"several ids begin with {JOB_ID[:8]}: give more of it, for example {JOB_ID}, "
            f"{OTHER_ID}",
        ),
        (
            "budsim.recommendation",
            "last",
            [],
            NotFound,
            "there are no recommendations yet: foundry budsim recommend",
        ),
    ],
)
def test_what_is_not_there(
    tmp_path: Path,
    method: str,
    reference: str,
    rows: list[dict[str, object]],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error) as caught:
        look(tmp_path, listing([], *rows), method, reference)
    assert str(caught.value) == message


def test_what_last_means_is_settled_by_the_first_look(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        if request.url.path == "/api/jobs":
            rows = {"data": [job("RUNNING")], "next_cursor": None}
            return httpx.Response(200, json=rows)
        return httpx.Response(200, json=job("SUCCEEDED"))

    with client(answer, tmp_path) as foundry:
        assert foundry.jobs.wait("last", poll_s=0.0).state == "SUCCEEDED"
    assert seen == ["/api/jobs", f"/api/jobs/{JOB_ID}"]


def test_a_search_is_waited_for_by_its_whole_id_only(tmp_path: Path) -> None:
    with (
        client(lambda request: httpx.Response(500), tmp_path) as foundry,
        pytest.raises(Conflict, match="wait takes a whole id"),
    ):
        foundry.budsim.recommendation("last", wait=5)
