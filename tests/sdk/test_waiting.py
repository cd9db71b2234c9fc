from pathlib import Path

import httpx
import pytest

from foundry.config import Settings
from foundry.errors import DeadlineExceeded, NotFound
from foundry.sdk import AsyncFoundry
from tests.sdk.answers import ENDPOINT_ID, JOB_ID, client, endpoint, failure, job


def test_waiting_outlasts_a_restart_and_reports_every_look(tmp_path: Path) -> None:
    answers = iter(
        [
            httpx.Response(200, json=job("RUNNING")),
            failure(503, "database_unavailable", "restarting"),
            httpx.Response(200, json=job("SUCCEEDED")),
        ]
    )
    seen: list[str] = []
    with client(lambda request: next(answers), tmp_path) as foundry:
        ended = foundry.jobs.wait(JOB_ID, lambda job: seen.append(job.state), poll_s=0)
    assert ended.state == "SUCCEEDED"
    assert seen == ["RUNNING", "SUCCEEDED"]


def test_waiting_ends_in_time(tmp_path: Path) -> None:
    running = httpx.Response(200, json=job("RUNNING"))
    with (
        client(lambda request: running, tmp_path) as foundry,
        pytest.raises(DeadlineExceeded, match=r"was not done within 0\.05 s"),
    ):
        foundry.jobs.wait(JOB_ID, poll_s=0.01, timeout_s=0.05)


def test_waiting_for_a_deletion_ends_when_the_endpoint_is_gone(tmp_path: Path) -> None:
    answers = iter(
        [httpx.Response(200, json=endpoint("DELETING")), failure(404, "not_found", "none")]
    )
    with client(lambda request: next(answers), tmp_path) as foundry:
        assert foundry.endpoints.wait(ENDPOINT_ID, poll_s=0).state == "DELETING"


def test_waiting_for_an_endpoint_that_never_was_fails(tmp_path: Path) -> None:
    absent = failure(404, "not_found", "none")
    with client(lambda request: absent, tmp_path) as foundry, pytest.raises(NotFound):
        foundry.endpoints.wait(ENDPOINT_ID, poll_s=0)


def test_a_job_that_is_gone_has_not_ended(tmp_path: Path) -> None:
    answers = iter([httpx.Response(200, json=job("RUNNING")), failure(404, "not_found", "none")])
    with client(lambda request: next(answers), tmp_path) as foundry, pytest.raises(NotFound):
        foundry.jobs.wait(JOB_ID, poll_s=0)


async def test_the_async_client_waits_likewise(tmp_path: Path) -> None:
    answers = iter(
        [
            failure(503, "database_unavailable", "restarting"),
            httpx.Response(200, json=endpoint("DELETING")),
            failure(404, "not_found", "none"),
        ]
    )
    transport = httpx.MockTransport(lambda request: next(answers))
    async with AsyncFoundry(
        "http://foundry.test", "k", settings=Settings(home=tmp_path), transport=transport
    ) as foundry:
        assert (await foundry.endpoints.wait(ENDPOINT_ID, poll_s=0)).state == "DELETING"
