"""`foundry jobs` as a user types it."""

import pytest

from foundry.cli.main import run
from tests.cli.conftest import Server
from tests.sdk.answers import AT, JOB_ID, job


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_a_log_is_followed_until_its_job_ends(
    server: type[Server],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    monkeypatch.setattr("foundry.cli.jobs.commands._FOLLOW_POLL_S", 0)
    path = f"/jobs/{JOB_ID}"
    server.answers[path] = [(200, job(now)) for now in ("RUNNING", "RUNNING", state)]
    pages = [
        [{"seq": 1, "at": AT, "text": "one\n"}],
        [],
        [{"seq": 2, "at": AT, "text": "two\n"}],
        [],
    ]
    server.answers[f"{path}/logs"] = [(200, {"data": page}) for page in pages]
    assert run(["jobs", "logs", JOB_ID, "--follow"]) == 0
    assert capsys.readouterr().out == "one\ntwo\n"
